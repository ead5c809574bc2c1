//! The arguments of the commands that talk to a running process.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroI32;
use std::time::Duration;

use clap::Args;
use form_urlencoded::Serializer;
use uuid::Uuid;

use super::reach::Reach;
use crate::admin::{ServerName, params};
use crate::session::live::SessionKind;

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print the API's JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub reach: Reach,
}

/// The arguments of commands that change the whole process.
#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// Print the API's JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub reach: Reach,
}

#[derive(Debug, Args)]
pub struct ReloadArgs {
    /// Where the admin API cannot be reached: check the file here, and send HUP to this process;
    /// its log says what came of it
    #[arg(long, value_name = "PID")]
    pub or_signal: Option<NonZeroI32>,
    #[command(flatten)]
    pub change: ChangeArgs,
}

#[derive(Debug, Args)]
pub struct SessionsArgs {
    /// Only those on this upstream
    #[arg(long, value_name = "U")]
    pub upstream: Option<String>,
    /// Only those on the server with this address
    #[arg(long, value_name = "A")]
    pub server: Option<SocketAddr>,
    /// Only those of this client
    #[arg(long, value_name = "IP")]
    pub client: Option<IpAddr>,
    /// Only those of this route
    #[arg(long, value_name = "R")]
    pub route: Option<String>,
    /// Only those with this in their path, the query included
    #[arg(long, value_name = "P")]
    pub path: Option<String>,
    /// Only the one with this id, as the log names it
    #[arg(long, value_name = "ID")]
    pub id: Option<Uuid>,
    /// Only those of this kind: websocket or stream
    #[arg(long, value_name = "K", value_parser = params::kind)]
    pub kind: Option<SessionKind>,
    /// Only those of this user
    #[arg(long, value_name = "U", value_parser = params::user)]
    pub user: Option<String>,
    /// Only those that have lasted for longer, such as 12h
    #[arg(long, value_name = "D", value_parser = params::duration)]
    pub older_than: Option<Duration>,
    /// Print the API's JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub reach: Reach,
}

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The server
    #[arg(value_name = "U/ADDR")]
    pub server: ServerName,
    /// Sessions are told to go at random moments within it [default: server.drain.window]
    #[arg(long, value_name = "D", value_parser = params::duration)]
    pub window: Option<Duration>,
    /// The Close frame's code [default: server.drain.code]
    #[arg(long, value_name = "N", value_parser = params::code)]
    pub code: Option<u16>,
    /// Return when the server has no sessions any more; on a terminal that is so without it
    #[arg(long)]
    pub wait: bool,
    /// Print the API's JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub reach: Reach,
}

#[derive(Debug, Args)]
pub struct EnableArgs {
    /// The server
    #[arg(value_name = "U/ADDR")]
    pub server: ServerName,
    /// Print the API's JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub reach: Reach,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("whom").required(true)))]
pub struct CloseArgs {
    /// The session, as `prusik sessions` and the log name it
    #[arg(group = "whom")]
    pub id: Option<Uuid>,
    /// Instead of one session, all sessions of this user
    #[arg(long, value_name = "U", value_parser = params::user, group = "whom")]
    pub user: Option<String>,
    /// The Close frame's code [default: server.drain.code]
    #[arg(long, value_name = "N", value_parser = params::code)]
    pub code: Option<u16>,
    /// Print the API's JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub reach: Reach,
}

impl CloseArgs {
    /// What is deleted.
    pub fn target(&self) -> String {
        let mut query = Serializer::new(String::new());
        if let Some(user) = &self.user {
            query.append_pair("user", user);
        }
        if let Some(code) = self.code {
            query.append_pair("code", &code.to_string());
        }
        let id = self.id.map(|id| format!("/{id}")).unwrap_or_default();
        format!("/api/v1/sessions{id}?{}", query.finish())
    }
}

impl SessionsArgs {
    pub fn query(&self, after: Option<&str>) -> String {
        let mut query = Serializer::new(String::new());
        query.append_pair("limit", &params::MAX_LIMIT.to_string());
        if let Some(upstream) = &self.upstream {
            query.append_pair("upstream", upstream);
        }
        if let Some(server) = &self.server {
            query.append_pair("server", &server.to_string());
        }
        if let Some(client) = &self.client {
            query.append_pair("client", &client.to_string());
        }
        let texts = [
            ("route", &self.route),
            ("path", &self.path),
            ("user", &self.user),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                query.append_pair(name, text);
            }
        }
        if let Some(id) = &self.id {
            query.append_pair("id", &id.to_string());
        }
        if let Some(kind) = self.kind {
            query.append_pair("kind", kind.name());
        }
        if let Some(older_than) = self.older_than {
            let older_than = humantime::format_duration(older_than).to_string();
            query.append_pair("older_than", &older_than);
        }
        if let Some(after) = after {
            query.append_pair("after", after);
        }
        query.finish()
    }
}
