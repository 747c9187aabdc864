//! Tables of paths: what one line says, and how a request finds its line.
//!
//! Each API has a table of its own, with its own endpoints and rules, and answers nothing that is not in it.

use hyper::Method;

/// One line: a path and a method, what they are for, and who may use them.
#[derive(Debug)]
pub(crate) struct Route<E: 'static, R: 'static> {
    /// With a slash at its end, what follows is an argument, and there must be one.
    pub(crate) path: &'static str,
    pub(crate) method: Method,
    pub(crate) endpoint: E,
    pub(crate) rule: R,
    pub(crate) max_body_bytes: u64,
}

/// Returns a line.
pub(crate) const fn route<E, R>(path: &'static str, method: Method, endpoint: E, rule: R, max_body_bytes: u64) -> Route<E, R> {
    Route { path, method, endpoint, rule, max_body_bytes }
}

/// What there is for a request.
#[derive(Debug)]
pub(crate) enum Found<'a, E: 'static, R: 'static> {
    /// Its line, and what follows the path there, as it stands in the URL.
    Line(&'static Route<E, R>, &'a str),
    /// The path has lines for other methods alone: these, with commas.
    OtherMethods(String),
    /// The path is in no line.
    Nothing,
}

/// Finds the line of a request.
pub(crate) fn find<'a, E, R>(table: &'static [Route<E, R>], method: &Method, path: &'a str) -> Found<'a, E, R> {
    let mut others = Vec::new();
    for (line, rest) in at(table, path) {
        if line.method == *method {
            return Found::Line(line, rest);
        }
        others.push(line.method.as_str());
    }
    if others.is_empty() { Found::Nothing } else { Found::OtherMethods(others.join(", ")) }
}

/// Returns the longest body that something at a path may have; `None` where there is nothing.
pub(crate) fn max_body_bytes<E, R>(table: &'static [Route<E, R>], path: &str) -> Option<u64> {
    at(table, path).map(|(line, _)| line.max_body_bytes).max()
}

/// Returns whether a request is let in by a rule for whoever asks; `None` where there is nothing at its path.
pub(crate) fn is_open<E, R: PartialEq>(table: &'static [Route<E, R>], anybody: &R, method: &Method, path: &str) -> Option<bool> {
    match find(table, method, path) {
        Found::Line(line, _) => Some(line.rule == *anybody),
        Found::OtherMethods(_) => Some(false),
        Found::Nothing => None,
    }
}

/// Returns the lines of a table for tests of all of them; `audience` says whom a rule lets in.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn lines<E, R: Copy>(
    table: &'static [Route<E, R>],
    audience: fn(R) -> crate::every_route::Audience,
) -> impl Iterator<Item = crate::every_route::RouteLine> {
    table.iter().map(move |line| crate::every_route::RouteLine {
        path: line.path,
        method: line.method.clone(),
        audience: audience(line.rule),
    })
}

/// Returns the lines of a path, one for each method, and what follows it there.
fn at<'a, E, R>(table: &'static [Route<E, R>], path: &'a str) -> impl Iterator<Item = (&'static Route<E, R>, &'a str)> {
    table.iter().filter_map(move |line| {
        let rest = path.strip_prefix(line.path)?;
        let is_it = if line.path.ends_with('/') { !rest.is_empty() } else { rest.is_empty() };
        is_it.then_some((line, rest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    static TABLE: [Route<u8, bool>; 3] = [
        route("/a/", Method::GET, 1, true, 10),
        route("/a/", Method::PUT, 2, false, 30),
        route("/b", Method::POST, 3, false, 20),
    ];

    fn found(method: &Method, path: &str) -> String {
        match find(&TABLE, method, path) {
            Found::Line(line, rest) => format!("{} {rest}", line.endpoint),
            Found::OtherMethods(others) => others,
            Found::Nothing => "-".to_owned(),
        }
    }

    #[test]
    fn a_request_finds_its_line_or_what_else_may_be_done_there() {
        assert_eq!(found(&Method::GET, "/a/x"), "1 x");
        assert_eq!(found(&Method::PUT, "/a/x/y"), "2 x/y");
        assert_eq!(found(&Method::DELETE, "/a/x"), "GET, PUT");
        assert_eq!(found(&Method::POST, "/b"), "3 ");
        for nothing in ["/a/", "/a", "/b/", "/b/x", "/bx", "", "/"] {
            assert_eq!(found(&Method::GET, nothing), "-", "{nothing}");
        }
    }

    #[test]
    fn a_path_takes_the_longest_body_of_its_lines_and_each_method_has_its_own_rule() {
        assert_eq!((max_body_bytes(&TABLE, "/a/x"), max_body_bytes(&TABLE, "/c")), (Some(30), None));
        let open = |method, path| is_open(&TABLE, &true, &method, path);
        assert_eq!((open(Method::GET, "/a/x"), open(Method::PUT, "/a/x")), (Some(true), Some(false)));
        assert_eq!((open(Method::HEAD, "/a/x"), open(Method::GET, "/c")), (Some(false), None));
    }
}
