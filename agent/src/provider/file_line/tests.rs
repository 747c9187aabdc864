//! The same files and resources that stdlib was tried with, and what it made of them.

use direct_puppet_transport::protocol::{Resource, Value};
use proptest::prelude::*;

use super::*;
use crate::provider::file::tests::World;

fn line(parameters: &[(&str, &str)]) -> Resource {
    let mut resource = Resource::new("File_line", "it").with("path", "/f");
    for (name, value) in parameters {
        let value = match *value {
            "true" => Value::Boolean(true),
            "false" => Value::Boolean(false),
            text => text.into(),
        };
        resource = resource.with(name, value);
    }
    resource
}

async fn converge(text: &str, parameters: &[(&str, &str)]) -> Result<(Vec<String>, String), String> {
    let world = World::new();
    world.write("/f", text);
    let done = world.converge_by(&FileLineProvider, &line(parameters)).await?;
    Ok((done, world.read("/f")))
}

#[tokio::test]
async fn lines_come_and_go() {
    type Parameters = &'static [(&'static str, &'static str)];
    let cases: &[(&str, Parameters, &str)] = &[
        ("a=1\nx=4", &[("line", "new=1")], "a=1\nx=4\nnew=1\n"),
        ("a\n", &[("line", "a")], "a\n"),
        ("a\r\n", &[("line", "a")], "a\r\n"),
        ("a\nb=2\n", &[("line", "b=3"), ("match", "^b=")], "a\nb=3\n"),
        ("x=3\nx=4", &[("line", "x=9"), ("match", "^x="), ("multiple", "true")], "x=9\nx=9\n"),
        ("a\nb\n", &[("line", "n"), ("match", "^q"), ("after", "^a")], "a\nn\nb\n"),
        ("a\nb\n", &[("line", "n"), ("match", "^q"), ("append_on_no_match", "false")], "a\nb\n"),
        ("b=2\n", &[("line", "b=3"), ("match", "^b="), ("replace", "false")], "b=2\n"),
        ("a=1\nb=2\n", &[("line", "n"), ("after", "^a=")], "a=1\nn\nb=2\n"),
        ("a=1\na=2\n", &[("line", "n"), ("after", "^a="), ("multiple", "true")], "a=1\nn\na=2\nn\n"),
        ("z\n", &[("line", "n"), ("after", "^a=")], "z\nn\n"),
        (
            "b=3\nb=4\n",
            &[("line", "b=3"), ("match", "^b="), ("multiple", "true"), ("replace_all_matches_not_matching_line", "true")],
            "b=3\nb=3\n",
        ),
        ("a\nb\na\n", &[("ensure", "absent"), ("line", "a")], "b\n"),
        ("a=1\nb\n", &[("ensure", "absent"), ("match", "^a="), ("match_for_absence", "true")], "b\n"),
        ("a=1\nb\n", &[("ensure", "absent"), ("line", "q"), ("match", "^a=")], "a=1\nb\n"),
        ("a=1\na=2\n", &[("ensure", "absent"), ("match", "^a="), ("match_for_absence", "true"), ("multiple", "true")], ""),
    ];
    for (text, parameters, expected) in cases {
        let (done, after) = converge(text, parameters).await.unwrap();
        assert_eq!(after, *expected, "{parameters:?}");
        assert_eq!(done.is_empty(), after == *text, "{parameters:?}: {done:?}");
    }
}

#[tokio::test]
async fn several_matches_are_refused() {
    for parameters in [
        &[("line", "x=9"), ("match", "^x=")][..],
        &[("line", "n"), ("after", "^x=")],
        &[("ensure", "absent"), ("match", "^x="), ("match_for_absence", "true")],
    ] {
        let error = converge("x=1\nx=2\n", parameters).await.unwrap_err();
        assert!(error.contains("match") && error.contains("pattern '^x='"), "{error}");
    }
}

#[tokio::test]
async fn a_file_that_is_not_there_is_an_error_but_in_noop() {
    let mut world = World::new();
    let error = world.converge_by(&FileLineProvider, &line(&[("line", "a")])).await.unwrap_err();
    assert!(error.contains("there is no /f"), "{error}");
    world.set_noop();
    let checked = FileLineProvider.check(&world.context(), &Arc::new(line(&[("line", "a")]))).await.unwrap();
    assert_eq!(checked.changes.len(), 1);
}

#[tokio::test]
async fn other_encodings_are_kept() {
    let world = World::new();
    world.write("/f", b"gr\xfcn\nb=1\n");
    let utf8 = line(&[("line", "b=2"), ("match", "^b=")]);
    let error = world.converge_by(&FileLineProvider, &utf8).await.unwrap_err();
    assert!(error.contains("UTF-8"), "{error}");
    world.converge_by(&FileLineProvider, &utf8.with("encoding", "iso-8859-1")).await.unwrap();
    assert_eq!(world.read_bytes("/f"), b"gr\xfcn\nb=2\n");
}

#[test]
fn parameters_are_checked() {
    for (parameters, valid) in [
        (&[("line", "a")][..], true),
        (&[], false),
        (&[("line", "a\nb")], false),
        (&[("line", "a"), ("match", "(")], false),
        (&[("ensure", "absent"), ("match", "a")], false),
        (&[("line", "a"), ("path", "f")], false),
        (&[("line", "a"), ("encoding", "utf-16")], false),
        (&[("line", "a"), ("replace", "false"), ("replace_all_matches_not_matching_line", "true")], false),
        (&[("line", "a"), ("multiple", "false"), ("replace_all_matches_not_matching_line", "true")], false),
        (&[("line", "a"), ("lines", "b")], false),
    ] {
        let result = FileLineProvider.validate(&line(parameters));
        assert_eq!(result.is_ok(), valid, "{parameters:?}: {result:?}");
    }
}

proptest! {
    #[test]
    fn a_line_that_was_created_exists_and_can_be_removed(text in "([ab]{0,2}\r?\n){0,6}[ab]{0,2}", wanted in "[ab]{1,3}") {
        let parameters = Parameters::parse(&line(&[("line", &wanted)])).unwrap();
        let created = Text::read(text.as_bytes()).create(&parameters).unwrap();
        prop_assert!(Text::read(&created).exists(&parameters).unwrap());
        let gone = Text::read(&created).destroy(&parameters).unwrap();
        prop_assert!(!Text::read(&gone).exists(&parameters).unwrap());
    }
}
