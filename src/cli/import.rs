//! `prusik import`: another proxy's file as one of prusik.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use super::FAILED;
use crate::import::nginx::{self, Failure, Imported};

#[derive(Debug, Subcommand)]
pub enum Import {
    /// A file of nginx, with its includes
    Nginx {
        /// nginx's main file, or that of a site
        file: PathBuf,
    },
}

/// Exits with 1 when something was left out, or the file is not valid on this machine.
pub fn import(of: &Import) -> ExitCode {
    let Import::Nginx { file } = of;
    match nginx::import(file) {
        Ok(imported) => show(&imported),
        Err(Failure::File(error)) => {
            eprintln!("{error}");
            ExitCode::from(FAILED)
        }
        Err(Failure::Invalid(errors)) => {
            eprintln!("{errors}");
            eprintln!("prusik: this is a bug of the import: please report it with the file");
            ExitCode::from(FAILED)
        }
    }
}

fn show(imported: &Imported) -> ExitCode {
    if let Err(error) = io::stdout().write_all(imported.text.as_bytes()) {
        eprintln!("prusik: cannot write it: {error}");
        return ExitCode::from(FAILED);
    }
    for left_out in &imported.left_out {
        eprintln!("{left_out}");
    }
    if let Some(errors) = &imported.not_here {
        eprintln!("On this machine `prusik check` refuses it, because of files:\n{errors}");
    }
    match imported.left_out.is_empty() && imported.not_here.is_none() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FAILED),
    }
}
