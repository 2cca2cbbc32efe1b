//! Does what people ask for on the status socket: a poll, a roll-back, a check of the appliance's health.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::health::Health;
use status::service::Command;
use update::service::RollBackRequest;

/// How many commands may wait. The socket answers one asker at a time.
pub(super) const QUEUE: usize = 8;

/// Whoever does what the status socket is asked for.
pub(super) struct Commands {
    /// What people ask for.
    pub(super) asked: mpsc::Receiver<Command>,
    /// Makes the updater poll.
    pub(super) poll_now: Arc<Notify>,
    /// Makes the updater go back by one release. It takes one request at a time.
    pub(super) roll_backs: mpsc::Sender<RollBackRequest>,
    /// Looks whether the appliance does what it is for.
    pub(super) health: Health,
}

impl Commands {
    /// Does one command after the other until `stop`, or until nobody can ask any more. It waits on the next command;
    /// a check of health takes a moment and runs beside.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut checks = JoinSet::new();
        loop {
            let command = tokio::select! {
                () = stop.cancelled() => return,
                Some(ended) = checks.join_next() => {
                    if let Err(error) = ended {
                        warn!(%error, "the check of health broke off");
                    }
                    continue;
                }
                command = self.asked.recv() => command,
            };
            match command {
                Some(Command::Poll) => self.poll_now.notify_one(),
                Some(Command::RollBack(tell)) => self.roll_back(tell),
                Some(Command::Health(tell)) => drop(checks.spawn(check(self.health.clone(), tell))),
                None => return,
            }
        }
    }

    /// Hands the request to the updater, who answers it.
    fn roll_back(&self, tell: RollBackRequest) {
        use mpsc::error::TrySendError::{Closed, Full};
        if let Err(Full(tell) | Closed(tell)) = self.roll_backs.try_send(tell) {
            // Whoever asked may have gone.
            let _ = tell.send(Err("this appliance is not enrolled, or is busy with a roll-back".to_owned()));
        }
    }
}

async fn check(health: Health, tell: oneshot::Sender<Result<String, String>>) {
    // Whoever asked may have gone.
    let _ = tell.send(health.check().await.map_err(|error| format!("{error:#}")));
}
