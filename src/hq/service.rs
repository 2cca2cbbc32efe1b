//! HQ online.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

/// What to serve.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The online directory.
    pub dir: PathBuf,
    /// Where to listen.
    pub listen: SocketAddr,
}

/// Serves until cancelled.
pub async fn serve(_options: ServeOptions, _shutdown: CancellationToken) -> anyhow::Result<()> {
    todo!()
}
