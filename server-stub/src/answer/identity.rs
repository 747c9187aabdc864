//! Who may act for which node.

use direct_puppet_transport::Peer;
use direct_puppet_transport::protocol::{Certname, Refusal, RefusalCode};

use crate::replica::{AllowedReplica, Share};
use crate::server::OWN;

/// Checks that `peer` may speak for `certname`.
///
/// A certificate speaks for its own name. A local process of root or of the server's own user, a plain connection that the
/// administrator opened, and the process itself may speak for any.
pub(crate) fn acts_for(peer: &Peer, certname: &Certname) -> Result<(), Refusal> {
    let is_allowed = match peer {
        Peer::Certificate { name, .. } => name == certname,
        Peer::Process { uid, .. } => is_own(*uid),
        Peer::Plain | Peer::InProcess => true,
        _ => false,
    };
    if is_allowed {
        return Ok(());
    }
    tracing::warn!(?peer, %certname, "a peer asked in another's name");
    Err(Refusal::new(RefusalCode::Forbidden, format!("you are not {certname}: ask in the name of your certificate")))
}

/// Checks that `peer` may follow this server under the name `replica`; `replicas` are those that may. Returns what it may have.
pub(super) fn acts_as_replica(peer: &Peer, replica: &Certname, replicas: &[AllowedReplica]) -> Result<Share, Refusal> {
    acts_for(peer, replica)?;
    if !matches!(peer, Peer::Certificate { name, .. } if !is_one_of(name, replicas)) {
        return Ok(Share::of(replica, replicas));
    }
    tracing::warn!(%replica, "a certificate that is no replica's asked for published code");
    Err(Refusal::new(RefusalCode::Forbidden, format!("{replica} is no replica of this server: name it with --replica")))
}

/// Checks that `peer` was named to this server with `replica`, its name: over a plain connection the name is all there is.
pub(super) fn is_named(peer: &Peer, replica: &Certname, replicas: &[AllowedReplica]) -> Result<(), Refusal> {
    let share = acts_as_replica(peer, replica, replicas)?;
    if share.is_part() {
        // It could never take over, nor follow one of whom it is told only a part.
        tracing::warn!(%replica, "a server that may have only some environments tells of another primary");
        let message = format!("{replica} may have {share} and may not say that another server has taken over");
        return Err(Refusal::new(RefusalCode::Forbidden, message));
    }
    if !matches!(peer, Peer::Plain) || is_one_of(replica, replicas) {
        return Ok(());
    }
    tracing::warn!(%replica, "a server that was not named to this one tells of another primary");
    let message = format!("{replica} may not say that another server has taken over: name it to this one with --replica");
    Err(Refusal::new(RefusalCode::Forbidden, message))
}

/// Whether a name is one of those that may follow this server.
pub(super) fn is_one_of(name: &Certname, replicas: &[AllowedReplica]) -> bool {
    replicas.iter().any(|replica| replica.certname == *name)
}

/// Whether `peer` may publish and look at everything; `admins` are certificates that may.
pub(crate) fn is_administrator(peer: &Peer, admins: &[Certname]) -> bool {
    match peer {
        Peer::Certificate { name, .. } => admins.contains(name),
        Peer::Process { uid, .. } => is_own(*uid),
        Peer::Plain | Peer::InProcess => true,
        _ => false,
    }
}

/// Returns who a peer is, for records.
pub(crate) fn name_of(peer: &Peer) -> String {
    match peer {
        Peer::Certificate { name, .. } => format!("certificate {name}"),
        Peer::Process { uid, .. } => format!("uid {uid}"),
        Peer::Plain => "plain connection".to_owned(),
        Peer::InProcess => OWN.to_owned(),
        other => format!("{other:?}"),
    }
}

fn is_own(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_speaks_for_itself_alone() {
        let (a, b): (Certname, Certname) = ("a".parse().unwrap(), "b".parse().unwrap());
        assert!(acts_for(&Peer::certificate(a.clone()), &a).is_ok());
        assert_eq!(acts_for(&Peer::certificate(b.clone()), &a).unwrap_err().code, RefusalCode::Forbidden);
        assert!(!is_administrator(&Peer::certificate(a.clone()), std::slice::from_ref(&b)));
        assert!(is_administrator(&Peer::certificate(b.clone()), &[b]));
        let stranger = Peer::Process { uid: 4_000_000_000, gid: 0, pid: 1 };
        assert!(acts_for(&stranger, &a).is_err() && !is_administrator(&stranger, &[]));
    }
}
