//! Code that a catalog in use was compiled from, live or not.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use direct_puppet_transport::protocol::{CodeId, Environment, Manifest};

use crate::code::Code;
use crate::error::ServerError;
use crate::history::VersionName;
use crate::puppet_api::Api;
use crate::puppet_api::answer::Failure;

/// How many trees that are not live are kept: after a publish, nodes ask for the one before.
const KEPT: usize = 4;

/// Trees that are not live any more; the latest asked for first.
#[derive(Debug, Default)]
pub(in crate::puppet_api) struct Former(Mutex<VecDeque<(Environment, CodeId, Arc<Manifest>)>>);

/// The tree of a `code_id`.
#[derive(Debug, Clone)]
pub(in crate::puppet_api) enum Tree {
    Live(Arc<Code>),
    Former(Arc<Manifest>),
}

impl Tree {
    pub(in crate::puppet_api) fn manifest(&self) -> &Manifest {
        match self {
            Self::Live(code) => &code.manifest,
            Self::Former(manifest) => manifest,
        }
    }
}

impl Former {
    fn get(&self, environment: &Environment, code_id: CodeId) -> Option<Arc<Manifest>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |(place, id, _): &&(Environment, CodeId, Arc<Manifest>)| *id == code_id && place == environment;
        kept.iter().find(is_it).map(|(_, _, manifest)| Arc::clone(manifest))
    }

    fn keep(&self, environment: Environment, code_id: CodeId, manifest: &Arc<Manifest>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_front((environment, code_id, Arc::clone(manifest)));
        kept.truncate(KEPT);
    }
}

impl Api {
    /// Returns the tree of a `code_id`; `None` when this server has none, or none any more.
    pub(in crate::puppet_api) async fn tree(&self, environment: &Environment, code_id: CodeId) -> Result<Option<Tree>, Failure> {
        let server = Arc::clone(&self.server);
        if let Some(code) = server.environments.live(environment).filter(|code| code.version.code_id == code_id) {
            return Ok(Some(Tree::Live(code)));
        }
        if let Some(manifest) = self.former.get(environment, code_id) {
            return Ok(Some(Tree::Former(manifest)));
        }
        let (place, former) = (environment.clone(), Arc::clone(&self.former));
        let read = move || -> Result<Option<Arc<Manifest>>, ServerError> {
            if let Some(manifest) = former.get(&place, code_id) {
                return Ok(Some(manifest));
            }
            let manifest = match server.shared.is_some() {
                // It may have been live elsewhere only.
                true => match server.find_manifest(&place, VersionName::Code(code_id)) {
                    Ok((_, manifest)) => Some(manifest),
                    Err(ServerError::NoVersion { .. }) => None,
                    Err(error) => return Err(error),
                },
                false => {
                    let found = server.environments.manifest(&place, code_id);
                    if matches!(found, Err(ServerError::Damaged { .. })) {
                        server.mending.want_manifest(&place, code_id);
                    }
                    found?
                }
            };
            let manifest = manifest.map(Arc::new);
            if let Some(manifest) = &manifest {
                former.keep(place, code_id, manifest);
            }
            Ok(manifest)
        };
        Ok(self.make(read).await??.map(Tree::Former))
    }
}
