//! `classes.txt` and `resources.txt` in the state directory: what the held catalog declares, as Puppet's agent lists it for other tools.

use std::path::Path;
use std::sync::Arc;

use direct_puppet_transport::protocol::Resource;

use crate::fs::{FsError, write_state};

/// Names of the files, as in Puppet (`classfile`, `resourcefile`).
const CLASSES: &str = "classes.txt";
const RESOURCES: &str = "resources.txt";

/// Types that have no property: Puppet leaves them out of its list, because nothing of them can be out of sync.
const WITHOUT_PROPERTIES: [&str; 7] = ["Anchor", "Concat_file", "Concat_fragment", "Filebucket", "Resources", "Schedule", "Tidy"];

/// What the two files say.
#[derive(Debug)]
pub(crate) struct CatalogLists {
    classes: String,
    resources: String,
}

impl CatalogLists {
    /// Lists a catalog, in its order.
    pub(crate) fn of(classes: &[String], resources: &[Arc<Resource>]) -> Self {
        let lines = |lines: &mut dyn Iterator<Item = String>| lines.map(|line| line + "\n").collect::<String>();
        let is_listed = |resource: &&Arc<Resource>| {
            !resource.is_container() && !WITHOUT_PROPERTIES.contains(&resource.resource_type.as_str())
        };
        Self {
            classes: lines(&mut classes.iter().map(|class| on_one_line(class))),
            resources: lines(
                &mut resources
                    .iter()
                    .filter(is_listed)
                    .map(|resource| on_one_line(&resource.reference().to_string()).to_lowercase()),
            ),
        }
    }

    /// Whether both files are there. Blocking.
    pub(crate) fn are_written(state_dir: &Path) -> bool {
        [CLASSES, RESOURCES].iter().all(|name| state_dir.join(name).exists())
    }

    /// Writes both files. Blocking.
    pub(crate) fn write(&self, state_dir: &Path) -> Result<(), FsError> {
        write_state(&state_dir.join(CLASSES), self.classes.as_bytes(), 0o640)?;
        write_state(&state_dir.join(RESOURCES), self.resources.as_bytes(), 0o640)
    }
}

/// A title with line ends must not look like two resources.
fn on_one_line(text: &str) -> String {
    text.replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_what_puppet_lists() {
        let class = |title: &str| Arc::new(Resource::new("Class", title));
        let mut define = Resource::new("Thing", "T1");
        define.container = true;
        let resources = [
            class("Settings"),
            class("Web"),
            Arc::new(Resource::new("File", "/tmp/x")),
            Arc::new(Resource::new("Exec", "hello there")),
            Arc::new(Resource::new("Notify", "Hi\nthere")),
            Arc::new(Resource::new("Schedule", "eve")),
            Arc::new(define),
            Arc::new(Resource::new("File", "/tmp/T1")),
        ];
        let lists = CatalogLists::of(&["settings".to_owned(), "web".to_owned()], &resources);
        assert_eq!(lists.classes, "settings\nweb\n");
        assert_eq!(lists.resources, "file[/tmp/x]\nexec[hello there]\nnotify[hi\\nthere]\nfile[/tmp/t1]\n");
        let dir = tempfile::tempdir().unwrap();
        assert!(!CatalogLists::are_written(dir.path()));
        lists.write(dir.path()).unwrap();
        assert!(CatalogLists::are_written(dir.path()));
        assert_eq!(std::fs::read_to_string(dir.path().join("classes.txt")).unwrap(), lists.classes);
    }
}
