//! Reading everything again: is it still what its name says?

use std::collections::{HashMap, HashSet};

use direct_puppet_transport::protocol::{CodeId, Digest, Environment};
use serde::{Deserialize, Serialize};

use super::rollback::contents;
use crate::disk;
use crate::error::{ServerError, chain};
use crate::puppet_api::damaged_contents;
use crate::role::Others;
use crate::server::{AUDIT, Server};
use crate::shared;

/// What was checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Versions whose manifests were read.
    pub versions: u64,
    /// Distinct contents that were read.
    pub contents: u64,
    /// The same of the store that this server shares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_store: Option<Box<Self>>,
    /// Lines of the audit log that are not as they were written, or that did not follow on the one before them: something was edited, or
    /// taken out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audit_lines: Vec<usize>,
    /// Files that the server keeps for itself, and records in a shared store, that are damaged, and what follows from it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<String>,
    /// What is damaged or missing; a damaged content was moved aside, and the next publish or sync brings it again.
    pub problems: Vec<Problem>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// In this environment.
    pub environment: Environment,
    /// In this code.
    pub code_id: CodeId,
    /// The file of the code; none for the manifest itself, the history, and catalogs.
    pub path: Option<String>,
    /// What is wrong.
    pub reason: String,
}

impl Server {
    /// As [`Server::verify`], for `who`, which is recorded: what is damaged is moved aside.
    ///
    /// # Errors
    ///
    /// As [`Server::verify`], and when the record cannot be written.
    pub fn verify_as(&self, who: &str) -> Result<Verified, ServerError> {
        self.audit_if_possible("verify", who, "all versions")?;
        self.verify()
    }

    /// Reads every manifest and every content of every version that was not collected, and every catalog that is kept; where servers share a store, what this one has
    /// of it, and what is there. Blocking, for as long as that takes; others
    /// go on meanwhile.
    ///
    /// # Errors
    ///
    /// When a history cannot be read; what is damaged is in the answer.
    pub fn verify(&self) -> Result<Verified, ServerError> {
        let audit_lines = disk::broken_links(&self.options.data_dir.join(AUDIT))?;
        let mut verified = Verified { audit_lines, damaged: self.damaged_files()?, ..Verified::default() };
        // Each content once: whether it is good.
        let mut known: HashMap<Digest, bool> = HashMap::new();
        let is_copy = self.role.others() == Others::Store;
        for last in self.environments.all_last() {
            let environment = &last.environment;
            let about = |code_id: CodeId, path: Option<String>, reason: String| Problem {
                environment: environment.clone(),
                code_id,
                path,
                reason,
            };
            for line in self.environments.damaged_lines(environment)? {
                let reason = format!("line {line} of its history is damaged: the version that it told of is not listed any more");
                verified.problems.push(about(last.code_id, None, reason));
            }
            let reread = match self.environments.live(environment) {
                Some(live) => self.environments.reread(&live)?,
                None => {
                    vec!["it was damaged when the server started, and is not served: publish it again, or roll back".to_owned()]
                }
            };
            verified.problems.extend(reread.into_iter().map(|reason| about(last.code_id, None, reason)));
            let collected = self.environments.collected(environment)?;
            let history = self.environments.history(environment)?;
            let codes: HashSet<CodeId> =
                history.iter().map(|version| version.code_id).filter(|code_id| !collected.contains(code_id)).collect();
            for code_id in codes {
                let problem = |path: Option<String>, reason: String| about(code_id, path, reason);
                let manifest = match self.environments.manifest(environment, code_id) {
                    Ok(Some(manifest)) => manifest,
                    // It was live elsewhere.
                    Ok(None) if is_copy && code_id != last.code_id => continue,
                    Ok(None) | Err(_) if self.is_collected(environment, code_id)? => continue,
                    Ok(None) => {
                        verified.problems.push(problem(None, "its manifest is missing".to_owned()));
                        continue;
                    }
                    Err(error) => {
                        if matches!(error, ServerError::Damaged { .. }) {
                            self.mending.want_manifest(environment, code_id);
                        }
                        verified.problems.push(problem(None, chain(&error)));
                        continue;
                    }
                };
                verified.versions += 1;
                let mut bad = Vec::new();
                for (path, digest) in contents(&manifest) {
                    if is_copy && code_id != last.code_id && !self.store.has(&digest) {
                        continue;
                    }
                    if !self.is_good(digest, &mut known)? {
                        bad.push((path, digest));
                    }
                }
                if !bad.is_empty() && self.is_collected(environment, code_id)? {
                    continue;
                }
                for (path, digest) in bad {
                    self.mending.want(digest);
                    verified.problems.push(problem(Some(path), format!("content {digest} is missing or was damaged")));
                }
            }
        }
        self.verify_catalogs(&mut verified, &mut known)?;
        verified.contents = known.len() as u64;
        if let Some(shared) = &self.shared {
            let mut there = Verified::default();
            shared::wait(shared.verify(&mut there))?;
            verified.in_store = Some(Box::new(there));
        }
        Ok(verified)
    }

    /// Looks at the small files that a server can do without.
    fn damaged_files(&self) -> Result<Vec<String>, ServerError> {
        let mut damaged = Vec::new();
        for path in self.nodes.damaged()? {
            damaged.push(format!(
                "{}: which catalog that node has is not known until it asks again, and gc removes nothing before; remove the file when the                  node is gone",
                path.display()
            ));
        }
        for last in self.environments.all_last() {
            if let Err(error) = self.environments.answers.check(&last.environment) {
                damaged.push(format!(
                    "{}: a publish of {} that changed nothing and is repeated counts as a new one, until another is made",
                    chain(&error),
                    last.environment
                ));
            }
        }
        damaged.extend(self.options.compiler.verify());
        damaged.extend(damaged_contents(&self.nodes)?);
        if let Err(error) = self.followers.check() {
            damaged.push(format!("{}: who followed this server is not known until they ask", chain(&error)));
        }
        Ok(damaged)
    }

    /// Reads the catalogs of all nodes, and what compiling them made. One that is damaged is compiled again.
    fn verify_catalogs(&self, verified: &mut Verified, known: &mut HashMap<Digest, bool>) -> Result<(), ServerError> {
        // What is wrong with these is told already, and mended without a compile.
        let of_code: HashSet<Digest> = known.keys().copied().collect();
        for (certname, compiled) in self.nodes.catalogs() {
            let mut reason = None;
            match self.nodes.decoded(&certname, compiled.catalog_id) {
                None => reason = Some("is gone or damaged".to_owned()),
                Some(catalog) => {
                    for (digest, _) in catalog.contents().filter(|(digest, _)| !of_code.contains(digest)) {
                        if !self.is_good(digest, known)? {
                            reason = Some(format!("names content {digest}, which is missing or was damaged"));
                        }
                    }
                }
            }
            // One that a compile or a collection has replaced meanwhile is no problem.
            if let Some(reason) = reason.filter(|_| self.nodes.has_catalog(&certname, compiled.catalog_id)) {
                self.nodes.lose(&certname, compiled.catalog_id);
                let reason = format!("the catalog {} of node {certname} {reason}: it is compiled again", compiled.catalog_id);
                verified.problems.push(Problem {
                    environment: compiled.environment,
                    code_id: compiled.code_id,
                    path: None,
                    reason,
                });
            }
        }
        Ok(())
    }

    /// Whether a collection that goes on beside has taken a version, since the history was read.
    fn is_collected(&self, environment: &Environment, code_id: CodeId) -> Result<bool, ServerError> {
        Ok(self.environments.collected(environment)?.contains(&code_id))
    }

    /// Whether a content is whole, read once.
    fn is_good(&self, digest: Digest, known: &mut HashMap<Digest, bool>) -> Result<bool, ServerError> {
        if let Some(is_good) = known.get(&digest) {
            return Ok(*is_good);
        }
        let is_good = self.store.has_verified(&digest)?;
        known.insert(digest, is_good);
        Ok(is_good)
    }
}
