//! `tidemark completions`: what a shell needs to complete our command lines.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Failure};

/// Print a script that teaches a shell to complete `tidemark`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  tidemark completions bash > ~/.local/share/bash-completion/completions/tidemark
  tidemark completions zsh > ~/.zfunc/_tidemark        with fpath+=~/.zfunc before compinit
  tidemark completions fish > ~/.config/fish/completions/tidemark.fish")]
pub struct Completions {
    /// Which shell.
    shell: Shell,
}

impl Completions {
    /// Prints it.
    pub fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "tidemark", &mut script);
        super::say(&String::from_utf8_lossy(&script));
        Ok(())
    }
}
