//! Revoking certificates, removing them, and keeping the revocation list.

use direct_puppet_transport::protocol::Certname;

use super::crl::{self, Lists};
use super::dir::remove;
use super::inventory::{self, Line};
use super::{Ca, CaError};

impl Ca {
    /// Returns whether a certificate of this name was ever issued here.
    fn was_issued(&self, name: &Certname) -> Result<bool, CaError> {
        let inventory = self.dir.inventory_text()?;
        Ok(self.issued(name)?.is_some() || inventory.lines().filter_map(Line::parse).any(|line| line.name == name.as_str()))
    }

    /// Revokes all certificates of these names that are still valid, and drops their requests, so that nobody signs those by mistake; returns
    /// the names of which none was ever issued, whose requests go on to wait. Blocking.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or written; then none was revoked.
    pub fn revoke(&self, names: &[Certname]) -> Result<Vec<Certname>, CaError> {
        let _turn = self.dir.turn()?;
        let unknown = self.revoke_in_turn(names)?;
        for name in names.iter().filter(|name| !unknown.contains(name)) {
            remove(&self.dir.request(name))?;
        }
        Ok(unknown)
    }

    fn revoke_in_turn(&self, names: &[Certname]) -> Result<Vec<Certname>, CaError> {
        let (now, inventory) = (self.now(), self.dir.inventory_text()?);
        let (mut serials, mut unknown) = (Vec::new(), Vec::new());
        for name in names {
            if !self.was_issued(name)? {
                unknown.push(name.clone());
                continue;
            }
            let valid = inventory::valid_serials(&inventory, name, now);
            serials.extend(valid.iter().map(|serial| crl::serial_bytes(&serial.to_be_bytes())));
            serials.extend(self.issued(name)?.map(|issued| issued.serial));
        }
        serials.sort();
        serials.dedup();
        let signer = self.signer()?;
        let path = self.dir.lists();
        let lists = Lists::load(&path, &signer)?;
        serials.retain(|serial| !lists.is_revoked(serial));
        if !serials.is_empty() {
            self.dir.write(&path, lists.revoking(&serials, &signer, &path, now)?.as_bytes(), 0o644)?;
            tracing::info!(?names, count = serials.len(), "certificates were revoked");
        }
        Ok(unknown)
    }

    /// Revokes the certificates of these names, and removes them and their requests; returns the names of which there was nothing.
    /// Blocking.
    ///
    /// # Errors
    ///
    /// As [`Ca::revoke`].
    pub fn clean(&self, names: &[Certname]) -> Result<Vec<Certname>, CaError> {
        let _turn = self.dir.turn()?;
        let mut unknown = self.revoke_in_turn(names)?;
        for name in names {
            remove(&self.dir.signed(name))?;
            if remove(&self.dir.request(name))? {
                unknown.retain(|other| other != name);
            }
        }
        Ok(unknown)
    }

    /// Removes the request of a name, and with `certificate` its certificate, unrevoked; returns whether there was any. Blocking.
    pub(crate) fn forget(&self, name: &Certname, with_certificate: bool) -> Result<bool, CaError> {
        let _turn = self.dir.turn()?;
        let had_certificate = with_certificate && remove(&self.dir.signed(name))?;
        Ok(remove(&self.dir.request(name))? || had_certificate)
    }

    /// Makes the revocation list anew when it ends soon; returns whether it did. Blocking.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or written.
    pub fn refresh_list(&self) -> Result<bool, CaError> {
        let _turn = self.dir.turn()?;
        let (signer, path, now) = (self.signer()?, self.dir.lists(), self.now());
        let lists = Lists::load(&path, &signer)?;
        if !lists.is_due(now) {
            return Ok(false);
        }
        self.dir.write(&path, lists.revoking(&[], &signer, &path, now)?.as_bytes(), 0o644)?;
        Ok(true)
    }
}
