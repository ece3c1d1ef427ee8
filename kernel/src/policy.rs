//! What becomes of a partition whose devices fault: its policy (`on_fault`), and the end of a storm.

use crate::budget;
use crate::config::{FaultAction, OnFault};
use crate::life::Change;
use crate::monitor::Sender;
use crate::partition::Partition;
use crate::say;
use crate::system::System;
use core::sync::atomic::Ordering;

impl Partition {
    /// Asks for a change of the partition as a whole, from any CPU.
    pub fn ask(&self, system: &System, change: Change) {
        let change = if self.config.restart {
            change
        } else {
            Change::Stop
        };
        system.kick(self, self.life.ask(change));
    }

    /// A fault of one of its devices: the configured policy, once the threshold is reached.
    pub fn fault(&self, system: &System, sender: Sender) {
        let faults = self.faults.fetch_add(1, Ordering::Relaxed) + 1;
        let OnFault { action, threshold } = self.config.on_fault;
        let (reached, first) = (
            faults >= u64::from(threshold),
            faults == u64::from(threshold),
        );
        match action {
            // Each function that faults from then on, not only the one that happened to reach the threshold.
            FaultAction::AbortStream if reached => {
                if self.assigned().cut_off(sender) {
                    say!("{}: {sender} is cut off after {faults} faults", self.name());
                }
            }
            // One that is stopped already has nothing left to stop.
            _ if !first || !self.life.is_running() => {}
            FaultAction::Log | FaultAction::AbortStream => {}
            FaultAction::Stop => {
                say!("{}: stops after {faults} faults", self.name());
                self.ask(system, Change::Stop);
            }
            FaultAction::Restart => {
                if self.fault_restarts.lock().spend(arch::clock::now_ns()) {
                    say!("{}: restarts after {faults} faults", self.name());
                    self.ask(system, Change::Restart);
                } else {
                    say!(
                        "{}: stops: faults have restarted it {} times in {} s",
                        self.name(),
                        budget::TIMES,
                        budget::WINDOW_NS / 1_000_000_000
                    );
                    self.ask(system, Change::Stop);
                }
            }
        }
    }

    /// A storm of faults of one of its devices, whatever the policy is: handling them is at the cost of others.
    pub fn storm(&self, sender: Sender) {
        if self.assigned().cut_off(sender) {
            say!("{}: {sender} is cut off: a storm of faults", self.name());
        }
    }
}
