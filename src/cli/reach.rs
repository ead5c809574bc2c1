//! Finds a running process: the address of its API, and the token for it.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;

use super::address::Address;
use super::client::{Client, ClientError};
use crate::config::token::Token;
use crate::config::{self, Extent};

/// The address of the running process, and the token that it accepts.
#[derive(Debug, Args)]
pub struct Reach {
    /// The running process's admin address, such as 127.0.0.1:9900 or unix:/run/prusik/admin.sock
    /// [default: admin.listen of the configuration]
    #[arg(long, value_name = "ADDR")]
    admin: Option<Address>,
    /// The configuration file that names the admin address
    #[arg(short, long, value_name = "FILE", default_value = config::DEFAULT_FILE)]
    config: PathBuf,
    /// The file with the admin token [default: admin.token_file of the configuration]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// What happens if the file that names the address is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrongFile {
    /// The command fails.
    Fatal,
    /// The address is taken from the file if possible, because the process will check the file.
    Judged,
}

impl Reach {
    pub fn client(&self, wrong_file: WrongFile) -> Result<Client, ClientError> {
        let (addresses, token_file) = match &self.admin {
            Some(address) => (vec![address.clone()], self.token_file.clone()),
            None => {
                let found = Found::of(&self.config, wrong_file)?;
                let token_file = self.token_file.clone().or(found.token_file);
                (found.addresses, token_file)
            }
        };
        let token = match token_file {
            Some(path) => Some(Token::read(&path)?),
            None => addresses
                .first()
                .and_then(|first| self.token_at_hand(first)),
        };
        Ok(Client::new(addresses, token))
    }

    /// Checks whether the process could use its file.
    pub fn check_file(&self) -> Result<(), ClientError> {
        match config::load(&self.config, Extent::Start) {
            Ok(_) => Ok(()),
            Err(errors) => Err(ClientError::Unreadable(errors)),
        }
    }

    /// If an address is given, the file's token is used only if the file has this address too:
    /// another process must not see the token. The process may also need no token.
    fn token_at_hand(&self, address: &Address) -> Option<Token> {
        let found = Found::at_first_glance(&self.config)?;
        let is_named = found.addresses.contains(address);
        let token_file = found.token_file.filter(|_| is_named)?;
        Token::read(&token_file).ok()
    }
}

/// What the configuration says about its process.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// Never empty. The first address that answers is used.
    addresses: Vec<Address>,
    token_file: Option<PathBuf>,
}

impl Found {
    fn of(path: &Path, wrong_file: WrongFile) -> Result<Self, ClientError> {
        let errors = match config::load(path, Extent::File) {
            Ok(config) => {
                let admin = config
                    .admin
                    .ok_or_else(|| ClientError::NoAdmin(path.to_owned()))?;
                return Ok(Self {
                    addresses: admin.listen.into_iter().map(Address::from).collect(),
                    token_file: admin.token_file,
                });
            }
            Err(errors) => errors,
        };
        match wrong_file {
            WrongFile::Fatal => Err(ClientError::WrongFile(errors)),
            WrongFile::Judged => Self::at_first_glance(path).ok_or(ClientError::Unreadable(errors)),
        }
    }

    /// Ignores other errors in the file.
    fn at_first_glance(path: &Path) -> Option<Self> {
        #[derive(Deserialize)]
        struct File {
            admin: Admin,
        }

        #[derive(Deserialize)]
        struct Admin {
            listen: Listen,
            token_file: Option<PathBuf>,
        }

        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Listen {
            One(String),
            Several(Vec<String>),
        }

        let text = fs::read_to_string(path).ok()?;
        let File { admin } = serde_yaml::from_str(&text).ok()?;
        let texts = match admin.listen {
            Listen::One(text) => vec![text],
            Listen::Several(texts) => texts,
        };
        let addresses = texts.iter().map(|text| text.parse());
        let addresses: Vec<Address> = addresses.collect::<Result<_, _>>().ok()?;
        Some(Self {
            addresses: Some(addresses).filter(|all| !all.is_empty())?,
            token_file: admin.token_file,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prusik.yaml");
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn reach(admin: Option<&str>, config: &Path) -> Reach {
        Reach {
            admin: admin.map(|address| address.parse().unwrap()),
            config: config.to_owned(),
            token_file: None,
        }
    }

    const GOOD: &str = "
admin: { listen: 127.0.0.1:9900 }
listeners: [{ listen: 127.0.0.1:9090 }]
routes: [{ match: { path_prefix: / }, respond: { status: 200 } }]
";

    #[test]
    fn an_address_is_written_with_or_without_its_scheme() {
        for (text, shown) in [
            ("127.0.0.1:9900", "127.0.0.1:9900"),
            ("http://127.0.0.1:9900", "127.0.0.1:9900"),
            ("http://localhost:9900/", "localhost:9900"),
            ("[::1]:9900", "[::1]:9900"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "9900",
            ":9900",
            "127.0.0.1",
            "::1:9900",
            "https://127.0.0.1:9900",
            "http://127.0.0.1:9900/api",
            "localhost:http",
            "unix:a.sock",
            "/run/a.sock",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_address_comes_from_the_file_unless_it_is_named() {
        let (_folder, path) = file(GOOD);
        let client = reach(None, &path).client(WrongFile::Fatal).unwrap();
        assert_eq!(client.addresses()[0].to_string(), "127.0.0.1:9900");
        let other = reach(Some("unix:/run/a.sock"), &path);
        let client = other.client(WrongFile::Fatal).unwrap();
        assert_eq!(client.addresses()[0].to_string(), "unix:/run/a.sock");
    }

    #[test]
    fn a_file_without_admin_says_what_to_add() {
        let (_folder, path) = file(&GOOD.replace("admin:", "# admin:"));
        let error = reach(None, &path).client(WrongFile::Fatal).unwrap_err();
        assert!(matches!(error, ClientError::NoAdmin(_)));
        let error = error.to_string();
        assert!(
            error.contains("`admin: { listen: unix:/run/prusik/admin.sock }`"),
            "{error}"
        );
        assert!(error.contains("--admin"), "{error}");
    }

    #[test]
    fn the_way_to_the_process_that_judges_a_wrong_file_is_found_in_it() {
        let (_folder, path) = file(&GOOD.replace("respond", "respnd"));
        let reach = reach(None, &path);
        let error = reach.client(WrongFile::Fatal).unwrap_err();
        assert!(matches!(error, ClientError::WrongFile(_)), "{error}");
        let client = reach.client(WrongFile::Judged).unwrap();
        assert_eq!(client.addresses()[0].to_string(), "127.0.0.1:9900");
        fs::write(&path, "admin: {").unwrap();
        let error = reach.client(WrongFile::Judged).unwrap_err();
        assert!(matches!(error, ClientError::Unreadable(_)), "{error}");
    }

    #[test]
    fn the_files_token_goes_to_the_files_address_only() {
        let (folder, path) = file(GOOD);
        let token = folder.path().join("token");
        fs::write(&token, "s3cret\n").unwrap();
        let listen = format!("127.0.0.1:9900, token_file: {}", token.display());
        fs::write(&path, GOOD.replace("127.0.0.1:9900", &listen)).unwrap();
        for (admin, has_token) in [
            (None, true),
            (Some("http://127.0.0.1:9900"), true),
            (Some("192.0.2.7:9900"), false),
        ] {
            let client = reach(admin, &path).client(WrongFile::Fatal).unwrap();
            assert_eq!(client.has_token(), has_token, "{admin:?}");
        }
        fs::remove_file(&token).unwrap();
        let error = reach(None, &path).client(WrongFile::Fatal).unwrap_err();
        assert!(matches!(error, ClientError::Token(_)), "{error}");
    }
}
