//! Carries out what people ask for on the status socket: a poll, a roll-back, a check of the appliance's health.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::health::Health;
use status::service::SocketCommand;
use update::RollBackRequest;

/// How many commands may wait. It is seldom more than one, because the socket serves one client at a time.
pub(super) const QUEUE: usize = 8;

/// Where the outcome of a command goes: a sentence for people, whether it worked or not.
type CommandAnswer = oneshot::Sender<Result<String, String>>;

/// The task that carries out the commands of the status socket.
pub(super) struct Commands {
    /// The commands, from [`StatusService`](status::service::StatusService).
    pub(super) asked: mpsc::Receiver<SocketCommand>,
    /// Wakes the updater, which then polls HQ.
    pub(super) poll_now: Arc<Notify>,
    /// Asks the updater to go back by one release. It takes one request at a time.
    pub(super) roll_backs: mpsc::Sender<RollBackRequest>,
    /// Checks whether the appliance does what it is for.
    pub(super) health: Health,
}

impl Commands {
    /// Takes one command after the other until `stop`, or until all senders of commands are gone. An answer that takes
    /// time is a task of its own, so that the next command does not wait for it. Those tasks end with this one.
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

    /// Hands a roll-back to the updater, and lets a task wait for its outcome.
    fn roll_back(&self, answer: CommandAnswer, answers: &mut JoinSet<()>) {
        let (done, outcome) = oneshot::channel();
        if self.roll_backs.try_send(done).is_err() {
            // The client may have gone, which is fine here and below.
            let _ = answer.send(Err("this appliance is not enrolled, or is busy with a roll-back".to_owned()));
            return;
        }
        answers.spawn(async move {
            if let Ok(outcome) = outcome.await {
                let text = outcome.map(|done| done.to_string()).map_err(|error| error.to_string());
                let _ = answer.send(text);
            }
        });
    }
}

async fn check(health: Health, answer: CommandAnswer) {
    // The client may have gone, which is fine.
    let _ = answer.send(health.check().await.map_err(|error| format!("{error:#}")));
}
