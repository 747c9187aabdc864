//! Catalogs on their way out, packed against the one that the node holds.

use std::sync::Arc;

use direct_puppet_transport::protocol::packed_catalog::{CATALOG_IN_COLUMNS, PACKED_CATALOG, pack_catalog};
use direct_puppet_transport::protocol::{CatalogLayout, CatalogReply, CheckIn};

use crate::blocking;
use crate::server::Server;

impl Server {
    /// Packs the catalog in a reply, for who understands that and when it helps; every other reply stays as it is.
    pub(super) async fn pack_reply(&self, check_in: &CheckIn, reply: CatalogReply) -> CatalogReply {
        let is_to_pack = matches!(reply, CatalogReply::Catalog { .. }) && understands(check_in, PACKED_CATALOG);
        // Boxed, so that those who wait for a reply do not hold room for packing it.
        if is_to_pack { Box::pin(self.pack(check_in, reply)).await } else { reply }
    }

    async fn pack(&self, check_in: &CheckIn, reply: CatalogReply) -> CatalogReply {
        let CatalogReply::Catalog { catalog_id, code_id, version, unconfirmed_seconds, catalog } = &reply else { return reply };
        let Ok(permit) = Arc::clone(&self.packing).acquire_owned().await else { return reply };
        let layout = match understands(check_in, CATALOG_IN_COLUMNS) {
            true => CatalogLayout::InColumns,
            false => CatalogLayout::AsItIs,
        };
        let (nodes, certname, held, whole) = (Arc::clone(&self.nodes), check_in.certname.clone(), check_in.held, catalog.clone());
        let pack = move || {
            let _permit = permit;
            // What the node holds may be of long ago, or of another server: then there is nothing to pack against.
            let base = held.and_then(|held| nodes.read(&certname, held.catalog_id));
            let packed = pack_catalog(&whole, base.as_deref().unwrap_or_default(), layout)?;
            Some((base.is_some(), packed))
        };
        match blocking::run(pack).await {
            Ok(Some((is_against_held, (layout, packed)))) => CatalogReply::Packed {
                catalog_id: *catalog_id,
                code_id: *code_id,
                version: *version,
                unconfirmed_seconds: *unconfirmed_seconds,
                is_against_held,
                layout,
                size: catalog.len() as u64,
                packed: packed.into(),
            },
            _ => reply,
        }
    }
}

fn understands(check_in: &CheckIn, feature: &str) -> bool {
    check_in.features.iter().any(|named| named == feature)
}
