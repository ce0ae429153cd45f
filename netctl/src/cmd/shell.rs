//! `netctl completion` and `netctl man`: made from the command tree itself, so they cannot lag behind.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Context;
use crate::Cli;
use crate::error::{DONE, Error};

/// Arguments of `completion`.
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl CompletionArgs {
    /// Prints the script.
    ///
    /// # Errors
    /// When it cannot be printed.
    pub fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "netctl", &mut script);
        context.printer.raw(&script)?;
        Ok(DONE)
    }
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write a page per command to this directory, instead of printing the main one
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl ManArgs {
    /// Prints the page, or writes all of them.
    ///
    /// # Errors
    /// When it cannot be printed or written.
    pub fn execute(self, context: &mut Context) -> Result<u8, Error> {
        match self.dir {
            Some(dir) => {
                let failed = |source| Error::Man { dir: dir.clone(), source };
                std::fs::create_dir_all(&dir).map_err(failed)?;
                clap_mangen::generate_to(Cli::command(), &dir).map_err(failed)?;
            }
            None => {
                let mut page = Vec::new();
                let failed = |source| Error::Man { dir: PathBuf::from("-"), source };
                clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(failed)?;
                context.printer.raw(&page)?;
            }
        }
        Ok(DONE)
    }
}
