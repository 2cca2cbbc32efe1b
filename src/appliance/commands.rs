//! Does what people ask for on the status socket: a poll, a roll-back, a check of the appliance's health.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::health::Health;
use status::service::SocketCommand;
use update::RollBackRequest;

/// How many commands may wait. The socket answers one asker at a time.
pub(super) const QUEUE: usize = 8;

/// An answer for people.
type CommandAnswer = oneshot::Sender<Result<String, String>>;

/// Does what the status socket is asked for.
pub(super) struct Commands {
    /// What people ask for.
    pub(super) asked: mpsc::Receiver<SocketCommand>,
    /// Makes the updater poll.
    pub(super) poll_now: Arc<Notify>,
    /// Makes the updater go back by one release. It takes one request at a time.
    pub(super) roll_backs: mpsc::Sender<RollBackRequest>,
    /// Looks whether the appliance does what it is for.
    pub(super) health: Health,
}

impl Commands {
    /// Takes one command after the other until `stop`, or until nobody can ask any more. It waits on the next command,
    /// and on the answers that take a moment: these are tasks of its own, which end with it.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut answers = JoinSet::new();
        loop {
            let command = tokio::select! {
                () = stop.cancelled() => return,
                Some(ended) = answers.join_next() => {
                    if let Err(error) = ended {
                        warn!(%error, "an answer to a command broke off");
                    }
                    continue;
                }
                command = self.asked.recv() => command,
            };
            match command {
                Some(SocketCommand::Poll) => self.poll_now.notify_one(),
                Some(SocketCommand::RollBack(answer)) => self.roll_back(answer, &mut answers),
                Some(SocketCommand::Health(answer)) => {
                    answers.spawn(check(self.health.clone(), answer));
                }
                None => return,
            }
        }
    }

    /// Hands a roll-back to the updater and waits for what comes of it.
    fn roll_back(&self, answer: CommandAnswer, answers: &mut JoinSet<()>) {
        let (done, outcome) = oneshot::channel();
        if self.roll_backs.try_send(done).is_err() {
            // Whoever asked may have gone.
            let _ = answer.send(Err("this appliance is not enrolled, or is busy with a roll-back".to_owned()));
            return;
        }
        answers.spawn(async move {
            if let Ok(outcome) = outcome.await {
                let text = outcome.map(|done| done.to_string()).map_err(|error| error.to_string());
                // Whoever asked may have gone.
                let _ = answer.send(text);
            }
        });
    }
}

async fn check(health: Health, answer: CommandAnswer) {
    // Whoever asked may have gone.
    let _ = answer.send(health.check().await.map_err(|error| format!("{error:#}")));
}
