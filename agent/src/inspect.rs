//! What there is on the machine, without a catalog: nothing is changed, locked or remembered.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use direct_puppet_transport::Transport;
use direct_puppet_transport::protocol::{Resource, Value};
use tokio_util::sync::CancellationToken;

use crate::agent::{Agent, Inner};
use crate::fs::{FsError, Root, StageJournal};
use crate::provider::{ApplyOptions, Context, ContextParts, ManagedPaths, Ownership, ProviderError};
use crate::store::Store;
use crate::tree::Scan;
use crate::undo::UndoLog;

/// Why it cannot be told what is there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// A type that no provider manages.
    #[error("there is no type {resource_type} here, there are {}", known.join(", "))]
    UnknownType {
        /// The type.
        resource_type: String,
        /// The types that have a provider.
        known: Vec<String>,
    },
    /// A type of which nothing can be found out.
    #[error("type {resource_type} does not tell what is there: it can only be applied")]
    NotInspected {
        /// The type.
        resource_type: String,
    },
    /// The managed root cannot be looked into.
    #[error("the managed root could not be looked into")]
    Root(#[from] FsError),
    /// The provider could not find it out.
    #[error(transparent)]
    Provider(#[from] ProviderError),
}

impl<T: Transport> Agent<T> {
    /// Returns what is there of a type, sorted by title: resources with their properties as parameters, as `puppet resource` has them. With a
    /// `name` there is one, that has `ensure => absent` when it is not there. Properties without a value are left out, and so is every secret.
    ///
    /// It changes nothing, takes no lock and needs no state directory; what cannot be read without more privileges is left out.
    ///
    /// # Errors
    ///
    /// When nothing manages the type, its provider cannot tell, or cannot find it out.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn inspect(&self, resource_type: &str, name: Option<&str>) -> Result<Vec<Resource>, InspectError> {
        let resource_type = capitalized(resource_type);
        let inner = self.inner();
        let provider = inner.providers.get(&resource_type).ok_or_else(|| {
            let mut known: Vec<String> = inner.providers.keys().cloned().collect();
            known.sort();
            InspectError::UnknownType { resource_type: resource_type.clone(), known }
        })?;
        let found = provider.instances(&context(inner)?, name).await?;
        let mut found = found.ok_or_else(|| InspectError::NotInspected { resource_type: resource_type.clone() })?;
        if let Some(name) = name {
            found.retain(|resource| resource.title == name);
            if found.is_empty() {
                found.push(Resource::new(&resource_type, name).with("ensure", "absent"));
            }
        }
        // Of several with a title the first counts, as in Puppet.
        found.sort_by(|a, b| a.title.cmp(&b.title));
        found.dedup_by(|later, first| later.title == first.title);
        found.iter_mut().for_each(|resource| resource.parameters.retain(|_, value| !is_nothing(value)));
        Ok(found)
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Undef => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        value => value.is_sensitive(),
    }
}

/// Returns the name of a type as catalogs have it.
fn capitalized(resource_type: &str) -> String {
    let capitalize = |part: &str| {
        let mut chars = part.chars();
        chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars.flat_map(char::to_lowercase)).collect())
    };
    resource_type.split("::").map(capitalize).collect::<Vec<String>>().join("::")
}

/// Returns a context in which nothing can be changed.
fn context<T>(inner: &Inner<T>) -> Result<Context, FsError> {
    Ok(Context::new(ContextParts {
        root: Root::open(&inner.root)?,
        store: Store::nowhere(&inner.state_dir.join("store"), &inner.root)?,
        stage_journal: StageJournal::unused(&inner.state_dir),
        scan: Scan::default(),
        managed: ManagedPaths::default(),
        resources: Vec::new(),
        own_state: None,
        options: ApplyOptions { show_diff: false, max_diff_bytes: 0, ownership: Ownership::Skipped, noop: true, settle: false },
        undo: UndoLog::new(&inner.state_dir, "inspect"),
        cancel: CancellationToken::new(),
        scan_is_stale: AtomicBool::new(false),
        uses: Mutex::default(),
        written: Mutex::default(),
    }))
}

#[cfg(all(test, feature = "providers"))]
mod tests {
    use direct_puppet_transport::testing::MockTransport;

    use super::*;
    use crate::AgentBuilder;
    use crate::apply::error_chain;

    fn builder(root: &std::path::Path) -> AgentBuilder<MockTransport> {
        Agent::builder().transport(MockTransport::new()).root(root)
    }

    #[tokio::test]
    async fn what_is_there_is_told_and_nothing_is_left_behind() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/hosts"), "10.0.0.2 bb\n10.0.0.1 aa x\n10.0.0.3 bb\n").unwrap();
        let agent = builder(root.path()).certname("n1".parse().unwrap()).build().unwrap();
        let all = agent.inspect("host", None).await.unwrap();
        let told: Vec<_> = all.iter().map(|host| (host.title.as_str(), host.parameter("ip").and_then(Value::as_str))).collect();
        assert_eq!(told, [("aa", Some("10.0.0.1")), ("bb", Some("10.0.0.2"))]);
        assert_eq!(all[1].parameters.keys().collect::<Vec<_>>(), ["ensure", "ip", "provider", "target"]);
        assert_eq!(agent.inspect("HOST", Some("aa")).await.unwrap(), all[..1]);
        let absent = agent.inspect("Host", Some("none")).await.unwrap();
        assert_eq!(absent, [Resource::new("Host", "none").with("ensure", "absent")]);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1, "a state directory was made");
    }

    #[tokio::test]
    async fn what_cannot_be_told_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let agent = builder(root.path()).certname("n1".parse().unwrap()).build().unwrap();
        let error = async |name: &str| error_chain(&agent.inspect(name, None).await.unwrap_err());
        assert!(error("my::type").await.starts_with("there is no type My::Type here, there are Anchor, Augeas, "));
        assert_eq!(error("exec").await, "type Exec does not tell what is there: it can only be applied");
        assert!(error("file").await.contains("name one"));
        assert!(error("service").await.contains("another root"), "services of another root are not asked for");
    }
}
