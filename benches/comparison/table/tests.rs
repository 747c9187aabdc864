use super::*;

fn series(name: &str, cpu_ms: &[f64]) -> Series {
    let sample = |cpu_ms: &f64| Sample { cpu_ms: *cpu_ms, wall_ms: cpu_ms / 2.0, max_rss_bytes: 1024 };
    Series { name: name.to_owned(), samples: Ok(cpu_ms.iter().map(sample).collect()) }
}

fn missing(name: &str, reason: &str) -> Series {
    Series { name: name.to_owned(), samples: Err(reason.to_owned()) }
}

#[test]
fn a_goal_is_met_up_to_its_limit_and_not_beyond() {
    let mut rows = Rows::new("p");
    let (ours, floor) = (series("run", &[125.0; 3]), series("floor", &[100.0; 3]));
    rows.ratio(&ours, &floor, Basis::Cpu, Goal::AtMost(1.25), "why");
    rows.ratio(&ours, &floor, Basis::Cpu, Goal::AtMost(1.24), "why");
    rows.speed(&floor, &ours, Basis::Wall, Goal::AtLeast(1.25), "why");
    rows.speed(&floor, &ours, Basis::Wall, Goal::AtLeast(1.26), "why");
    rows.ratio(&ours, &floor, Basis::Cpu, Goal::None, "why");
    let verdicts: Vec<_> = rows.rows.iter().map(|row| row.verdict).collect();
    assert_eq!(verdicts, [Verdict::Met, Verdict::NotMet, Verdict::Met, Verdict::NotMet, Verdict::Shown]);
    assert_eq!(rows.rows[1].reason.as_deref(), Some("why"));
    assert_eq!(rows.rows[0].reason, None);
    assert_eq!(score(&rows.rows), (4, 2));
}

#[test]
fn a_missing_peer_is_a_gap_and_ours_that_fails_is_not_met() {
    let mut rows = Rows::new("p");
    rows.ratio(&series("run", &[1.0]), &missing("git", "git is not installed"), Basis::Cpu, Goal::AtMost(1.0), "");
    rows.ratio(&missing("run", "exit code 4"), &series("git", &[1.0]), Basis::Cpu, Goal::AtMost(1.0), "");
    rows.ratio(&missing("run", "gap: needs root"), &series("git", &[1.0]), Basis::Cpu, Goal::AtMost(1.0), "");
    let verdicts: Vec<_> = rows.rows.iter().map(|row| row.verdict).collect();
    assert_eq!(verdicts, [Verdict::Gap, Verdict::NotMet, Verdict::Gap]);
    assert_eq!(score(&rows.rows), (3, 0));
    let text = markdown(&rows.rows);
    assert!(text.contains("- run against git: git is not installed."), "{text}");
    assert!(text.contains("- run against git: failed: exit code 4."), "{text}");
    assert!(text.contains("- run against git: needs root."), "{text}");
}

#[test]
fn the_table_says_ours_the_other_the_ratio_the_goal_and_whether_it_is_met() {
    let mut rows = Rows::new("Nothing changed");
    rows.ratio(&series("run", &[250.0]), &series("floor", &[200.0]), Basis::Cpu, Goal::AtMost(1.25), "");
    rows.limit(
        ("peak memory", Ok(65.0 * 1024.0 * 1024.0)),
        Unit::Bytes,
        Goal::AtMost(60.0 * 1024.0 * 1024.0),
        "the index is read whole",
    );
    rows.figures(("bytes", Ok(10.0)), ("rsync", Ok(40_000.0)), Unit::Bytes, Goal::AtMost(0.1), "");
    let wanted = "## Nothing changed\n\n| Ours | | Against | | Ratio | Goal | |\n|---|---|---|---|---:|---|---|\n\
                  | run | 250 ms CPU, 125 ms wall | floor | 200 ms CPU, 100 ms wall | 1.25 | ≤ 1.25 × | met |\n\
                  | peak memory | 65 MiB |  |  |  | ≤ 60 MiB | **not met** |\n\
                  | bytes | 10 B | rsync | 39.1 KiB | 1/4000 | ≤ 0.1 × | met |\n\n\
                  - peak memory: the index is read whole.\n\n";
    assert_eq!(markdown(&rows.rows), wanted);
}

#[test]
fn figures_have_three_digits_that_count() {
    let text = |value, unit| quantity(Quantity { value, unit });
    assert_eq!(text(0.0016, Unit::Milliseconds), "1.60 µs");
    assert_eq!(text(12.34, Unit::Milliseconds), "12.3 ms");
    assert_eq!(text(123.4, Unit::Milliseconds), "123 ms");
    assert_eq!(text(1234.0, Unit::Milliseconds), "1.23 s");
    assert_eq!(text(17_408.0, Unit::Bytes), "17 KiB");
    assert_eq!(text(3.0, Unit::Count), "3");
}

#[test]
fn samples_and_verdicts_are_in_the_json() {
    let mut rows = Rows::new("p");
    rows.ratio(&series("run", &[1.0, 2.0]), &series("floor", &[1.0, 1.0]), Basis::Cpu, Goal::AtMost(1.6), "");
    let json = serde_json::to_value(&rows.rows).unwrap();
    assert_eq!(json[0]["verdict"], "met");
    assert_eq!(json[0]["goal"]["at_most"], 1.6);
    assert_eq!(json[0]["ratio"], 1.5);
    assert_eq!(json[0]["samples"][1]["cpu_ms"], 2.0);
}
