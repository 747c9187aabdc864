//! What processors send, and what becomes of what they do not take.

use std::sync::Mutex;

use direct_puppet_transport::protocol::report::{Event, EventStatus, ResourceStatus};
use direct_puppet_transport::protocol::{Certname, Environment, RunStatus};
use direct_puppet_transport::{TransportError, TransportErrorKind};
use serde_json::Value as Json;

use super::*;
use crate::report::{ReportParts, build};
use crate::system::RealSystem;

/// Answers with a status, or not at all, and keeps what was asked.
#[derive(Debug, Clone, Default)]
struct Fake {
    answer: Arc<Mutex<Option<u16>>>,
    /// The answer to bodies that contain this.
    poison: Arc<Mutex<Option<(String, u16)>>>,
    asked: Arc<Mutex<Vec<HttpRequest>>>,
}

#[async_trait]
impl HttpSend for Fake {
    fn endpoint(&self) -> &str {
        "https://reports.example.com"
    }

    async fn send(&self, request: HttpRequest) -> Result<(u16, String), TransportError> {
        let poison = self.poison.lock().unwrap().clone();
        let poisoned = poison.filter(|(part, _)| String::from_utf8_lossy(&request.body).contains(part)).map(|(_, status)| status);
        self.asked.lock().unwrap().push(request);
        let answer = poisoned.or(*self.answer.lock().unwrap());
        answer.map(|status| (status, "said\n".to_owned())).ok_or_else(|| TransportError::new(TransportErrorKind::Connect, "away"))
    }
}

fn report(number: i64) -> Arc<Report> {
    let mut parts = ReportParts::for_tests();
    parts.time_unix_nanos += number * 1_000_000_000;
    parts.status = RunStatus::Changed;
    parts.completed = true;
    parts.resources.changed = 1;
    let event = |status| Event {
        resource: "File[/a]".to_owned(),
        property: "ensure".into(),
        previous_value: "absent".into(),
        desired_value: "file".into(),
        message: "created".into(),
        status,
        corrective_change: false,
        redacted: false,
        loglevel: None,
        time_unix_nanos: 1,
    };
    let events = vec![event(EventStatus::Success), event(EventStatus::Noop)];
    parts.statuses = vec![ResourceStatus { resource: "File[/a]".to_owned(), changed: true, events, ..Default::default() }];
    Arc::new(build(parts))
}

fn http(api: ReportApi, fake: &Fake) -> Arc<dyn ReportProcessor> {
    let certname: Certname = "n1".parse().unwrap();
    Arc::new(HttpReports::new(api, certname, Environment::default(), fake.clone(), RealSystem::default()))
}

fn id(report: &Report) -> ReportId {
    ReportId { time_unix_nanos: report.time_unix_nanos, transaction_uuid: report.transaction_uuid.clone() }
}

fn body(processor: &Arc<dyn ReportProcessor>) -> Json {
    serde_json::from_slice(&processor.body(&report(0)).unwrap()).unwrap()
}

#[tokio::test]
async fn what_is_not_taken_is_kept_and_sent_later_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    let processors = [http(ReportApi::Puppet, &fake)];
    for number in 0..2 {
        let messages = process(&processors, dir.path(), &report(number)).await;
        assert!(messages.len() == 1 && messages[0].contains("the report is kept"), "{messages:?}");
    }
    // The kept one was tried first, and then nothing else.
    assert_eq!(fake.asked.lock().unwrap().len(), 2);
    *fake.answer.lock().unwrap() = Some(200);
    fake.asked.lock().unwrap().clear();
    assert_eq!(process(&processors, dir.path(), &report(2)).await, [""; 0]);
    let asked = std::mem::take(&mut *fake.asked.lock().unwrap());
    let times: Vec<String> =
        asked.iter().map(|request| serde_json::from_slice::<Json>(&request.body).unwrap()["time"].to_string()).collect();
    assert!(times.len() == 3 && times.is_sorted(), "{times:?}");
    assert_eq!((asked[0].method, asked[0].path.as_str()), (HttpMethod::Put, "/puppet/v3/report/n1?environment=production"));
    assert_eq!(process(&processors, dir.path(), &report(3)).await, [""; 0]);
    assert_eq!(fake.asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_refused_for_good_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake { answer: Arc::new(Mutex::new(Some(400))), ..Fake::default() };
    let processors = [http(ReportApi::Foreman, &fake)];
    let messages = process(&processors, dir.path(), &report(0)).await;
    assert!(messages.len() == 1 && messages[0].ends_with("it answered 400 said"), "{messages:?}");
    *fake.answer.lock().unwrap() = Some(503);
    process(&processors, dir.path(), &report(1)).await;
    *fake.answer.lock().unwrap() = Some(422);
    let messages = process(&processors, dir.path(), &report(2)).await;
    assert!(messages.iter().any(|message| message.ends_with("a kept report is dropped")), "{messages:?}");
    fake.asked.lock().unwrap().clear();
    *fake.answer.lock().unwrap() = Some(201);
    assert_eq!(process(&processors, dir.path(), &report(3)).await, [""; 0]);
    assert_eq!(fake.asked.lock().unwrap().len(), 1, "the queue must be empty");
}

#[tokio::test]
async fn one_that_the_server_cannot_take_does_not_keep_back_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake { answer: Arc::new(Mutex::new(Some(200))), ..Fake::default() };
    *fake.poison.lock().unwrap() = Some(("T22:13:20".to_owned(), 500));
    let processors = [http(ReportApi::Puppet, &fake)];
    let messages = process(&processors, dir.path(), &report(0)).await;
    assert!(messages.len() == 1 && messages[0].contains("the report is kept"), "{messages:?}");
    let waiting = || Queue::of(dir.path(), processors[0].name()).waiting();
    for number in 1..i64::from(MAX_ATTEMPTS) {
        let messages = process(&processors, dir.path(), &report(number)).await;
        assert!(messages.len() == 1 && messages[0].contains("1 kept reports go on waiting"), "{messages:?}");
        assert_eq!(waiting().len(), 1, "the report of this run must be sent");
    }
    let messages = process(&processors, dir.path(), &report(100)).await;
    assert!(messages.len() == 1 && messages[0].ends_with("is dropped after 32 attempts"), "{messages:?}");
    assert_eq!(waiting(), []);
    // Of a server that is busy nothing more is asked, and that is no attempt.
    *fake.answer.lock().unwrap() = Some(503);
    for number in 101..104 {
        fake.asked.lock().unwrap().clear();
        process(&processors, dir.path(), &report(number)).await;
        assert_eq!(fake.asked.lock().unwrap().len(), 1);
    }
    assert!(waiting().len() == 3 && waiting().iter().all(|waiting| waiting.attempts == 0), "{:?}", waiting());
}

#[tokio::test]
async fn what_cannot_be_read_is_dropped_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake { answer: Arc::new(Mutex::new(Some(200))), ..Fake::default() };
    let processors = [http(ReportApi::Puppet, &fake)];
    let queue = dir.path().join("processors").join(processors[0].name());
    std::fs::create_dir_all(&queue).unwrap();
    std::os::unix::fs::symlink("nothing", queue.join("00000000000000000001-a")).unwrap();
    let messages = process(&processors, dir.path(), &report(0)).await;
    assert!(messages.len() == 1 && messages[0].ends_with("a kept report is dropped"), "{messages:?}");
    assert_eq!(process(&processors, dir.path(), &report(1)).await, [""; 0]);
}

#[tokio::test]
async fn a_conflict_is_success_for_foreman_only() {
    let fake = Fake { answer: Arc::new(Mutex::new(Some(409))), ..Fake::default() };
    for (api, is_taken) in [(ReportApi::Foreman, true), (ReportApi::Puppet, false), (ReportApi::PuppetDb, false)] {
        let sent = http(api, &fake).send(&id(&report(0)), Bytes::new()).await;
        assert_eq!(sent.is_ok(), is_taken, "{api:?}");
    }
}

#[tokio::test]
async fn puppetdb_gets_a_command() {
    let fake = Fake { answer: Arc::new(Mutex::new(Some(200))), ..Fake::default() };
    let processor = http(ReportApi::PuppetDb, &fake);
    let json = body(&processor);
    // Format 8 of the wire, in PuppetDB's documentation.
    for key in [
        "certname",
        "puppet_version",
        "report_format",
        "configuration_version",
        "producer_timestamp",
        "start_time",
        "end_time",
        "environment",
        "transaction_uuid",
        "status",
        "noop",
        "noop_pending",
        "corrective_change",
        "logs",
        "metrics",
        "resources",
        "catalog_uuid",
        "code_id",
        "job_id",
        "cached_catalog_status",
        "producer",
        "type",
    ] {
        assert!(json.get(key).is_some(), "{key}");
    }
    assert_eq!(json["resources"][0]["resource_title"], "/a");
    assert_eq!(json["resources"][0]["events"][0]["new_value"], "file");
    processor.send(&id(&report(0)), Bytes::from_static(b"{}")).await.unwrap();
    let asked = fake.asked.lock().unwrap()[0].clone();
    let start = "/pdb/cmd/v1?command=store_report&version=8&certname=n1&producer-timestamp=";
    assert!(
        asked.path.starts_with(start) && asked.path.ends_with("checksum=bf21a9e8fbc5a3846fb05b4fa0859e0917b2202f"),
        "{}",
        asked.path
    );
}

#[test]
fn foreman_gets_counts() {
    let json = body(&http(ReportApi::Foreman, &Fake::default()));
    let report = &json["config_report"];
    assert_eq!((&report["host"], &report["reported_at"]), (&Json::from("n1"), &Json::from("2023-11-14 22:13:20 UTC")));
    assert_eq!(
        (&report["status"]["applied"], &report["status"]["pending"], &report["status"]["failed"]),
        (&1.into(), &1.into(), &0.into())
    );
    assert_eq!(report["logs"][0]["log"]["sources"]["source"], "/File[/a]/ensure");
}

#[tokio::test]
async fn metrics_are_one_file_that_the_collector_reads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("puppet.prom");
    let processors: [Arc<dyn ReportProcessor>; 1] = [Arc::new(PrometheusTextfile::new(path.clone()))];
    assert_eq!(process(&processors, dir.path(), &report(0)).await, [""; 0]);
    let text = std::fs::read_to_string(&path).unwrap();
    for line in [
        "# TYPE puppet_report gauge",
        "puppet_report{environment=\"production\",host=\"n1\"} 1700000000",
        "puppet_status{state=\"changed\",environment=\"production\",host=\"n1\"} 1",
        "puppet_status{state=\"failed\",environment=\"production\",host=\"n1\"} 0",
        "puppet_report_resources{name=\"Failed to restart\",environment=\"production\",host=\"n1\"} 0",
        "puppet_report_events{name=\"Noop\",environment=\"production\",host=\"n1\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    let typed: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
    assert_eq!(typed.len(), typed.iter().collect::<std::collections::BTreeSet<_>>().len(), "a type is said once");
    let nowhere: [Arc<dyn ReportProcessor>; 1] = [Arc::new(PrometheusTextfile::new(dir.path().join("no/x.prom")))];
    let messages = process(&nowhere, dir.path(), &report(0)).await;
    assert!(messages.len() == 1 && messages[0].contains("write the metrics to"), "{messages:?}");
    assert!(!dir.path().join("processors/prometheus").exists(), "old metrics are of no use");
}

#[tokio::test]
async fn a_directory_gets_the_yaml_of_each_report() {
    let dir = tempfile::tempdir().unwrap();
    let store =
        |name: &str| -> Arc<dyn ReportProcessor> { Arc::new(StoreReports::new(dir.path().join(name), "n1".parse().unwrap())) };
    let processors = [store("reports"), store("other")];
    // Directories cannot be made where a file is.
    for name in ["reports", "other"] {
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    for number in 0..2 {
        let messages = process(&processors, dir.path(), &report(number)).await;
        assert!(messages.len() == 2 && messages.iter().all(|message| message.contains("is kept")), "{messages:?}");
    }
    for name in ["reports", "other"] {
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    // All in the same second as far as the clock goes, and each is there.
    assert_eq!(process(&processors, dir.path(), &report(2)).await, [""; 0]);
    let run = report(0).transaction_uuid.clone();
    for name in ["reports/n1", "other/n1"] {
        let mut files: Vec<String> = std::fs::read_dir(dir.path().join(name))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(files, ["20231114221320", "20231114221321", "20231114221322"].map(|time| format!("{time}-{run}.yaml")));
    }
    let file = dir.path().join(format!("reports/n1/20231114221320-{run}.yaml"));
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("--- !ruby/object:Puppet::Transaction::Report\n"));
    // The same again is no error, and another one replaces nothing.
    processors[0].send(&id(&report(0)), text.clone().into()).await.unwrap();
    let error = processors[0].send(&id(&report(0)), Bytes::from_static(b"other")).await.unwrap_err();
    assert!(!error.is_retryable && std::fs::read_to_string(&file).unwrap() == text, "{error}");
}
