//! The lease log, used on a thread that may wait for the disk.

use std::io;

use crate::leases::LeaseLog;

/// A lease log. It is here, or with the one call that uses it.
pub(super) struct BlockingLog(Option<Box<dyn LeaseLog + Send>>);

impl BlockingLog {
    pub(super) fn new(log: Box<dyn LeaseLog + Send>) -> Self {
        Self(Some(log))
    }

    /// Uses the log. Not cancel safe: whoever drops this future loses the log.
    ///
    /// # Errors
    ///
    /// If the log panicked, now or before.
    pub(super) async fn with<T: Send + 'static>(
        &mut self,
        use_it: impl FnOnce(&mut dyn LeaseLog) -> T + Send + 'static,
    ) -> io::Result<T> {
        let mut log = self.0.take().ok_or_else(|| io::Error::other("the lease log is lost"))?;
        let task = tokio::task::spawn_blocking(move || {
            let result = use_it(log.as_mut());
            (log, result)
        });
        let (log, result) = task.await.map_err(io::Error::other)?;
        self.0 = Some(log);
        Ok(result)
    }
}
