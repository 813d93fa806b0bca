//! Whole members over a bucket in memory, under paused time: who rules, what a reader sees, who leads.

mod churn;
mod goldens;
mod machine;
mod moves;
mod random;
mod scenes;
mod scripts;
mod sockets;
mod steps;
mod world;
mod zombies;
