//! `verify`.

use crate::options::Common;
use crate::{connect, run};

pub(crate) async fn verify(common: &Common) -> anyhow::Result<u8> {
    let agent = common.agent(connect::nowhere())?;
    run::print(&agent.verify().await?, common.json)
}
