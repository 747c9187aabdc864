//! Files: their metadata, and their contents, live or of a `code_id`.

mod content;
mod former;
mod listing;
mod metadata;
mod mounts;

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use direct_puppet_transport::protocol::{Manifest, ManifestEntry};
use hyper::{Response, StatusCode};

use super::answer::{self, Failure, JSON};
use super::checksum::Kind;
use super::query::{Parameters, short};
use super::{Api, Asked};
use crate::blocking;
use crate::code::{Code, links};
use crate::listen::RouteBody;

pub(super) use content::{file_of, is_servable};
pub(super) use former::Former;
pub(super) use listing::Listing;
pub(super) use metadata::{Describe, Described, Permissions};
pub(super) use mounts::Mounts;

impl Api {
    /// One entry. A directory is described without what lies in it.
    pub(super) async fn metadata(&self, asked: &Asked) -> Result<Response<RouteBody>, Failure> {
        asked.accepted(&[JSON])?;
        self.described(asked, "file_metadata", |code, mounts, describe, argument| {
            let entry = mounts.find(argument).ok_or_else(|| missing("file_metadata", argument))?;
            let entry = if describe.follows { links::followed(&code.manifest, entry) } else { entry };
            let described = describe.entry(entry, entry, None)?.ok_or_else(|| missing("file_metadata", argument))?;
            encode(&described)
        })
        .await
    }

    /// A tree: the first entry is the directory itself. Where several modules have it, as of plugins, they are laid over each other.
    pub(super) async fn metadatas(&self, asked: &Asked) -> Result<Response<RouteBody>, Failure> {
        asked.accepted(&[JSON])?;
        let listing = Listing::of(&asked.parameters)?;
        self.described(asked, "file_metadatas", move |code, mounts, describe, argument| {
            let roots = mounts.find_all(argument);
            if roots.is_empty() {
                return match mounts::is_of_all_modules(argument) {
                    // No module has plugins: agents take an empty directory for that, and an error for no environment.
                    true => encode(&[describe.nothing()]),
                    false => Err(missing("file_metadatas", argument)),
                };
            }
            let (mut all, mut seen) = (Vec::new(), HashSet::new());
            for root in roots {
                let entries = listing.entries(&code.manifest, root).map_err(Failure::server)?;
                let new = entries.into_iter().filter(|entry| seen.insert(entry.path.clone()));
                all.extend(new.map(|entry| (entry, root)));
            }
            listing.check_count(all.len())?;
            let described: Vec<_> = all
                .iter()
                .map(|(entry, root)| describe.listed(entry, root))
                .collect::<Result<Vec<_>, _>>()?
                .into_iter()
                .flatten()
                .collect();
            encode(&described)
        })
        .await
    }

    /// A file of the live code.
    pub(super) async fn content(&self, asked: &Asked) -> Result<Response<RouteBody>, Failure> {
        let environment = asked.parameters.environment()?;
        let (code, age) = self.live(asked, &environment).await?;
        let place = (code.version.code_id, asked.argument.clone());
        if let Some(digest) = self.places.get(&place) {
            return Ok(age.told(self.send(digest).await?));
        }
        let (store, argument) = (self.server.store.clone(), place.1.clone());
        let find = move || {
            let mounts = Mounts::of(&code.manifest, &store)?;
            let entry = mounts.find(&argument).map(|entry| links::followed(&code.manifest, entry));
            entry.and_then(file_of).ok_or_else(|| missing("file_content", &argument))
        };
        let digest = blocking::run(find).await.map_err(|error| Failure::internal(&error))??;
        self.places.put(place, &digest);
        Ok(age.told(self.send(digest).await?))
    }

    /// A file of the code that a catalog was compiled from.
    pub(super) async fn static_content(&self, asked: &Asked) -> Result<Response<RouteBody>, Failure> {
        let said = |name: &str| asked.parameters.get(name).filter(|value| !value.is_empty());
        let (Some(environment), Some(code_id)) = (said("environment"), said("code_id")) else {
            return Err(Failure::text(StatusCode::BAD_REQUEST, "give environment, code_id and a path below the environment"));
        };
        let Ok(environment) = environment.parse() else {
            return Err(Failure::text(
                StatusCode::BAD_REQUEST,
                format!("{} is not the name of an environment", short(environment)),
            ));
        };
        let Some(path) = content::static_path(&asked.argument) else {
            let message = "only what is in files, lib, scripts or tasks of a module is given";
            return Err(Failure::text(StatusCode::FORBIDDEN, message));
        };
        let unknown = || {
            let message =
                format!("code {} of environment {environment} is not on this server: run the agent again", short(code_id));
            Failure::text(StatusCode::NOT_FOUND, message)
        };
        let tree = match code_id.parse() {
            Ok(code_id) => self.tree(&environment, code_id).await?.ok_or_else(unknown)?,
            Err(_) => return Err(unknown()),
        };
        let found = links::look_up(tree.manifest(), &path).map(|entry| links::followed(tree.manifest(), entry));
        // A link may lead to what is not given by itself.
        let digest = found.filter(|entry| is_servable(&entry.path)).and_then(file_of);
        let digest = digest.ok_or_else(|| {
            Failure::text(
                StatusCode::NOT_FOUND,
                format!("code {code_id} of environment {environment} has no file {}", short(&asked.argument)),
            )
        })?;
        self.send(digest).await
    }

    /// Answers what is made from live code and the question alone, from memory if it was asked before.
    async fn described(
        &self,
        asked: &Asked,
        what: &str,
        make: impl FnOnce(&Code, &Mounts<'_>, &Describe<'_>, &str) -> Result<Bytes, Failure> + Send + 'static,
    ) -> Result<Response<RouteBody>, Failure> {
        let environment = asked.parameters.environment()?;
        let (kind, permissions) = (kind_of(&asked.parameters)?, Permissions::of(asked.parameters.get("source_permissions")));
        let follows = match asked.parameters.get("links") {
            None | Some("" | "manage") => false,
            Some("follow") => true,
            Some(other) => return Err(Failure::bad_request(format!("links must be manage or follow, not {}", short(other)))),
        };
        let (code, age) = self.live(asked, &environment).await?;
        let (code_id, time) = (code.version.code_id, code.version.time_unix_seconds);
        let key = format!("{what} {environment} {code_id} {time} {} {:?}", asked.argument, asked.parameters);
        if let Some(known) = self.rendered.get(&key) {
            return Ok(age.told(answer::plain(JSON, known)));
        }
        let (store, checksums, argument) = (self.server.store.clone(), Arc::clone(&self.checksums), asked.argument.clone());
        let rendered = Arc::clone(&self.rendered);
        let made = self.make(move || -> Result<Bytes, Failure> {
            if let Some(known) = rendered.get(&key) {
                return Ok(known);
            }
            let mounts = Mounts::of(&code.manifest, &store)?;
            let describe = Describe {
                manifest: &code.manifest,
                environment: &environment,
                checksums: &checksums,
                kind,
                permissions,
                follows,
                time,
            };
            let made = make(&code, &mounts, &describe, &argument)?;
            rendered.put(key, &made);
            Ok(made)
        });
        Ok(age.told(answer::plain(JSON, made.await??)))
    }
}

/// Returns the type of checksum that is asked for.
fn kind_of(parameters: &Parameters) -> Result<Kind, Failure> {
    let name = parameters.get("checksum_type").filter(|name| !name.is_empty()).unwrap_or("sha256");
    Kind::from_name(name).ok_or_else(|| Failure::bad_request(format!("{} is not a type of checksum", short(name))))
}

fn missing(what: &str, argument: &str) -> Failure {
    Failure::not_found(format!("there is no {what} of {}", short(argument)))
}

fn encode<T: serde::Serialize + ?Sized>(value: &T) -> Result<Bytes, Failure> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| Failure::internal(&error))
}

/// Returns an entry at a path that must be exactly there.
pub(super) fn at<'a>(manifest: &'a Manifest, path: &str) -> Option<&'a ManifestEntry> {
    manifest.get(&path.parse().ok()?)
}
