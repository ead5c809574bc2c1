//! The path of the program of this process. The file that is there now takes over.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{env, io};

#[derive(Debug, Clone)]
pub struct Program {
    pub path: PathBuf,
    pub args: Vec<OsString>,
}

impl Program {
    /// Must be called at the start: a relative path is lost when the directory is changed later.
    ///
    /// `/proc/self/exe` cannot be used: when a package manager puts a new file at the path, the
    /// link names the old file, marked as deleted.
    pub fn of_this_process() -> io::Result<Self> {
        let mut args = env::args_os();
        let name = args.next().map(PathBuf::from).unwrap_or_default();
        let path = match name.components().count() {
            0 | 1 if !name.to_string_lossy().contains('/') => in_path(&name),
            _ => Some(env::current_dir()?.join(name)),
        };
        Ok(Self {
            path: match path {
                Some(path) => path,
                None => env::current_exe()?,
            },
            args: args.collect(),
        })
    }
}

fn in_path(name: &Path) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}
