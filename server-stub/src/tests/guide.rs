//! The guide to the source names files that are there, and is as short as it says.

use std::fs;
use std::path::Path;

/// Lines of what is to be read in an afternoon, tests within it left out.
const MOST_LINES: usize = 4_800;

#[test]
fn what_it_names_is_there_and_can_be_read_in_an_afternoon() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = fs::read_to_string(root.join("README.md")).unwrap();
    let to_read = guide.split("How all of it is checked").next().unwrap();
    let mut lines = 0;
    let mut files = 0;
    for link in guide.split("](src/").skip(1) {
        let path = root.join("src").join(link.split(')').next().unwrap());
        assert!(path.exists(), "{} is not there", path.display());
    }
    for link in to_read.split("](src/").skip(1) {
        let text = fs::read_to_string(root.join("src").join(link.split(')').next().unwrap())).unwrap();
        lines += text.lines().take_while(|line| *line != "mod tests {").count();
        files += 1;
    }
    assert!(files >= 15, "{files} files");
    assert!(lines <= MOST_LINES, "{lines} lines");
    for folder in fs::read_dir(root.join("src")).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_dir()) {
        let name = folder.file_name().into_string().unwrap();
        assert!(name == "tests" || guide.contains(&format!("`src/{name}/`")), "{name} is not in the table");
    }
}
