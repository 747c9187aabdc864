//! Servers that refuse, break, or send what they should not.

use super::*;

async fn refused(status: u16, body: &str) -> CallError {
    let server = Scripted::default();
    server.answers("catalog/n1", status, body.to_owned());
    server.client().submit_facts(&facts(None)).await.unwrap_err()
}

#[tokio::test]
async fn refusals_say_who_what_and_what_to_do() {
    let broken = r#"{"message":"Server Error: Evaluation Error (file: /x/site.pp, line: 3)","issue_kind":"RUNTIME_ERROR"}"#;
    for (status, body, code, texts) in [
        (403, "Forbidden request: /puppet/v3/catalog/n1", RefusalCode::Forbidden, ["https://puppet:8140", "auth.conf"]),
        (500, broken, RefusalCode::CompileFailed, ["POST /puppet/v3/catalog/n1", "line: 3"]),
        (400, "bad", RefusalCode::BadRequest, ["does not understand", "bad"]),
        (404, "no environment", RefusalCode::NotFound, ["no environment", "catalog/n1"]),
    ] {
        let CallError::Refused(refusal) = refused(status, body).await else { panic!("{status} is no refusal") };
        assert_eq!(refusal.code, code, "{refusal}");
        assert!(texts.iter().all(|text| refusal.message.contains(text)), "{refusal}");
    }
    let CallError::Transport(busy) = refused(503, "busy").await else { panic!("503 is no failure") };
    assert_eq!((busy.kind(), busy.retry_after()), (TransportErrorKind::Unavailable, Some(Duration::from_secs(7))));
}

#[tokio::test]
async fn what_is_no_catalog_is_an_error_and_no_panic() {
    let whole = mixed();
    let cut = whole[..whole.len() / 2].to_owned();
    let deep = format!("{{\"resources\":{}", "[".repeat(5000));
    for body in
        ["", "[]", "null", "{}", "<html>", &cut, &deep, r#"{"name":"n1","resources":7}"#, r#"{"name":"../n","resources":[]}"#]
    {
        let CallError::Transport(error) = refused(200, body).await else { panic!("{body}") };
        assert_eq!(error.kind(), TransportErrorKind::Protocol, "{body}");
    }
    for status in [204, 301, 418, 599] {
        assert!(matches!(refused(status, "").await, CallError::Transport(_)), "{status}");
    }
}

#[tokio::test]
async fn metadata_that_make_no_sense_fail_one_file() {
    let server = Scripted::default();
    server.answers("catalog/n1", 200, mixed());
    let mut odd = metadata();
    odd["checksum"]["value"] = "{sha256}zz".into();
    for body in [json!({}), json!([]), json!(7), odd] {
        server.answers("file_metadata/site/gone", 200, body.to_string());
        let CatalogReply::Catalog { catalog_id, catalog, .. } = server.client().submit_facts(&facts(None)).await.unwrap() else {
            panic!("no catalog")
        };
        let read = direct_puppet_transport::protocol::Catalog::decode(&catalog, catalog_id).unwrap();
        assert!(read.resources[0].unusable.is_none() && read.resources[1].unusable.is_some(), "{body}");
    }
}

#[tokio::test]
async fn a_source_at_another_server_is_not_asked_for() {
    let server = Scripted::default();
    let files = json!([{ "type": "File", "title": "/a", "parameters": { "source": "puppet://other/site/a" } }]);
    server.answers("catalog/n1", 200, catalog(files, json!({})));
    let CatalogReply::Catalog { catalog_id, catalog, .. } = server.client().submit_facts(&facts(None)).await.unwrap() else {
        panic!("no catalog")
    };
    let read = direct_puppet_transport::protocol::Catalog::decode(&catalog, catalog_id).unwrap();
    assert!(read.resources[0].unusable.as_ref().unwrap().contains("another server"));
    assert_eq!(server.asked().len(), 1);
}

/// The sources of one file, by what becomes of it.
#[tokio::test]
async fn a_source_that_is_not_there_leaves_the_next_one() {
    let server = Scripted::default();
    server.answers("file_metadata/site/here", 200, metadata().to_string());
    for (sources, unusable, resolved) in [
        (json!(["puppet:///site/none", "/local"]), false, None),
        (json!(["puppet://other/site/here", "/local"]), false, None),
        (json!(["puppet:///site/none", "puppet://other/site/here"]), true, None),
        (json!(["puppet://other/site/here", "puppet:///site/here"]), false, Some("puppet:///site/here")),
        (json!(["puppet://puppet.example.com/site/here"]), false, Some("puppet://puppet.example.com/site/here")),
    ] {
        let files = json!([{ "type": "File", "title": "/a", "parameters": { "source": sources } }]);
        server.answers("catalog/n1", 200, catalog(files, json!({})));
        let CatalogReply::Catalog { catalog_id, catalog, .. } = server.client().submit_facts(&facts(None)).await.unwrap() else {
            panic!("no catalog")
        };
        let read = direct_puppet_transport::protocol::Catalog::decode(&catalog, catalog_id).unwrap();
        let file = &read.resources[0];
        assert_eq!(file.unusable.is_some(), unusable, "{sources}: {file:?}");
        let uri = file.resolved.as_ref().and_then(|resolved| resolved.uri.as_deref());
        assert_eq!(uri, resolved, "{sources}");
    }
}

#[tokio::test]
async fn contents_of_any_length_whether_the_server_says_it_or_not() {
    let server = Scripted::default();
    server.answers("catalog/n1", 200, mixed());
    let client = server.client();
    client.submit_facts(&facts(None)).await.unwrap();
    // In memory, the last that is, the first that is not, and many chunks.
    for length in [0_usize, 1, 1024 * 1024, 1024 * 1024 + 1, 3_000_000] {
        for is_sized in [true, false] {
            let content: Bytes = (0..length).map(|at| at.to_le_bytes()[0]).collect();
            let path = "/puppet/v3/static_file_content/modules/app/files/a%20b".to_owned();
            server.script.lock().unwrap().insert(path, (200, content.clone(), is_sized));
            // It is not what the catalog names: that is for the receiver to find out, who hashes what comes.
            assert_eq!(fetched(&client, hello()).await.unwrap().unwrap(), content, "{length} {is_sized}");
        }
    }
}

#[tokio::test]
async fn contents_that_cannot_be_had() {
    let server = Scripted::default();
    server.answers("catalog/n1", 200, mixed());
    let client = server.client();
    client.submit_facts(&facts(None)).await.unwrap();
    assert_eq!(fetched(&client, hello()).await.unwrap(), None);
    server.answers("static_file_content/modules/app/files/a%20b", 500, "Non-zero exit code");
    let CallError::Transport(error) = fetched(&client, hello()).await.unwrap_err() else { panic!("no failure") };
    assert_eq!(error.kind(), TransportErrorKind::Protocol);
    assert!(error.to_string().contains("puppet:///modules/app/files/a b") && error.to_string().contains("Non-zero"), "{error}");
    server.answers("static_file_content/modules/app/files/a%20b", 503, "");
    let CallError::Transport(error) = fetched(&client, hello()).await.unwrap_err() else { panic!("no failure") };
    assert_eq!(error.kind(), TransportErrorKind::Unavailable);
}
