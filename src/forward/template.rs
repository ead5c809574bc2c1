//! Header values with nginx's variables: `$host:$server_port`.
//!
//! A name is `$name` or `${name}`. A `$` without a name is kept, as in nginx. A variable without a
//! value renders as an empty text.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue, Method, header};

use super::caller::Caller;
use super::client_address::ClientAddress;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Variable(Variable),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Variable {
    Host,
    ServerPort,
    ServerAddr,
    Scheme,
    RemoteAddr,
    RemotePort,
    RequestUri,
    Uri,
    QueryString,
    IsArgs,
    Argument(String),
    /// `$http_NAME`, stored with the dashes of the header's name.
    Field(String),
    Cookie(String),
    RequestId,
    RequestMethod,
    ForwardedFor,
    ClientSubject,
    ClientVerify,
    /// The server that the request went to. Known when its answer has come.
    UpstreamAddr,
    User,
    /// `$jwt_NAME`: a claim of the token that let the request in.
    Claim(String),
    /// `$auth_NAME`: a header field of the auth server's answer, stored with dashes.
    AuthField(String),
}

/// Every variable with a fixed name.
const PLAIN: &[(&str, Variable)] = &[
    ("host", Variable::Host),
    ("server_port", Variable::ServerPort),
    ("server_addr", Variable::ServerAddr),
    ("scheme", Variable::Scheme),
    ("remote_addr", Variable::RemoteAddr),
    ("remote_port", Variable::RemotePort),
    ("request_uri", Variable::RequestUri),
    ("uri", Variable::Uri),
    ("query_string", Variable::QueryString),
    ("args", Variable::QueryString),
    ("is_args", Variable::IsArgs),
    ("request_id", Variable::RequestId),
    ("request_method", Variable::RequestMethod),
    ("proxy_add_x_forwarded_for", Variable::ForwardedFor),
    ("ssl_client_s_dn", Variable::ClientSubject),
    ("ssl_client_verify", Variable::ClientVerify),
    ("upstream_addr", Variable::UpstreamAddr),
    ("user", Variable::User),
];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("unknown variable \"${name}\"")]
    UnknownVariable { name: String },
    #[error("\"${{\" without a closing brace in {template:?}")]
    Unclosed { template: String },
}

impl TemplateError {
    pub fn hint(&self) -> String {
        match self {
            Self::UnknownVariable { name } => did_you_mean(name),
            Self::Unclosed { .. } => {
                "write ${NAME}; a plain $ is one that no letter follows".into()
            }
        }
    }
}

fn did_you_mean(name: &str) -> String {
    let nearest = PLAIN
        .iter()
        .map(|(known, _)| (strsim::damerau_levenshtein(known, name), known))
        .filter(|(distance, known)| *distance <= 2 && known.len() > 3)
        .min();
    if let Some((_, known)) = nearest {
        return format!("did you mean \"${known}\"?");
    }
    let known: Vec<_> = PLAIN.iter().map(|(known, _)| format!("${known}")).collect();
    format!(
        "there are {}, and with any NAME $arg_NAME, $http_NAME, $cookie_NAME, $jwt_NAME and \
         $auth_NAME",
        known.join(", ")
    )
}

impl Template {
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            literal.push_str(&rest[..at]);
            let behind = &rest[at + 1..];
            let (name, after) = match behind.strip_prefix('{') {
                Some(braced) => braced
                    .split_once('}')
                    .ok_or_else(|| TemplateError::Unclosed {
                        template: text.to_owned(),
                    })?,
                None => {
                    let end = behind
                        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                        .unwrap_or(behind.len());
                    behind.split_at(end)
                }
            };
            if name.is_empty() && !behind.starts_with('{') {
                literal.push('$');
            } else {
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal)));
                }
                parts.push(Part::Variable(Variable::parse(name)?));
            }
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self {
            text: text.to_owned(),
            parts,
        })
    }

    /// The text as the operator has written it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a part of it is known only when the request has been let in.
    pub fn reads_caller(&self) -> bool {
        self.parts.iter().any(|part| {
            matches!(
                part,
                Part::Variable(Variable::User | Variable::Claim(_) | Variable::AuthField(_))
            )
        })
    }

    /// Appends the value for one request. It is bytes, like header values (RFC 9110 section 5.5).
    pub fn render(&self, request: &RequestVariables<'_>, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Part::Variable(variable) => request.append(variable, out),
            }
        }
    }

    /// Whether any `$jwt_NAME` is in it.
    pub fn reads_claims(&self) -> bool {
        let mut parts = self.parts.iter();
        parts.any(|part| matches!(part, Part::Variable(Variable::Claim(_))))
    }

    /// Whether any `$auth_NAME` is in it.
    pub fn reads_auth_fields(&self) -> bool {
        let mut parts = self.parts.iter();
        parts.any(|part| matches!(part, Part::Variable(Variable::AuthField(_))))
    }

    /// Whether `$upstream_addr` is in it.
    pub fn reads_server(&self) -> bool {
        self.parts.contains(&Part::Variable(Variable::UpstreamAddr))
    }

    /// Whether `$user` is in it.
    pub fn reads_user(&self) -> bool {
        self.parts.contains(&Part::Variable(Variable::User))
    }
}

impl Variable {
    fn parse(name: &str) -> Result<Self, TemplateError> {
        if let Some((_, variable)) = PLAIN.iter().find(|(known, _)| *known == name) {
            return Ok(variable.clone());
        }
        let of = |prefix| {
            name.strip_prefix(prefix)
                .filter(|rest: &&str| !rest.is_empty())
        };
        if let Some(argument) = of("arg_") {
            return Ok(Self::Argument(argument.to_owned()));
        }
        if let Some(field) = of("http_") {
            return Ok(Self::Field(field.replace('_', "-").to_ascii_lowercase()));
        }
        if let Some(cookie) = of("cookie_") {
            return Ok(Self::Cookie(cookie.to_owned()));
        }
        if let Some(claim) = of("jwt_") {
            return Ok(Self::Claim(claim.to_owned()));
        }
        if let Some(field) = of("auth_") {
            let field = field.replace('_', "-").to_ascii_lowercase();
            return Ok(Self::AuthField(field));
        }
        Err(TemplateError::UnknownVariable {
            name: name.to_owned(),
        })
    }
}

/// A request as it arrived, for templates and forwarding headers.
#[derive(Debug, Clone)]
pub struct RequestVariables<'a> {
    pub headers: &'a HeaderMap,
    pub method: &'a Method,
    /// Path and query, as sent.
    pub target: &'a [u8],
    /// The path with which routes are compared, if it differs from the client's.
    pub path: Option<&'a str>,
    /// For a request with its host in the target and no `Host` field.
    pub authority: Option<&'a str>,
    pub scheme: &'static str,
    /// The subject of the client's verified certificate. `None`: the client has shown none.
    pub client_subject: Option<&'a str>,
    pub local: Option<SocketAddr>,
    /// The TCP peer. `None` on a unix socket.
    pub peer: Option<SocketAddr>,
    pub client: ClientAddress,
    /// The server of the answer. `None`: it has none, or is not there yet.
    pub server: Option<SocketAddr>,
    /// `None`: the route does not ask who it is.
    pub caller: Option<&'a Caller>,
    pub request_id: &'a HeaderValue,
}

impl<'a> RequestVariables<'a> {
    /// The host as it was sent, with its port if there is one.
    pub fn http_host(&self) -> &'a [u8] {
        match self.headers.get(header::HOST) {
            Some(host) => host.as_bytes(),
            None => self.authority.unwrap_or_default().as_bytes(),
        }
    }

    /// Like [`Self::http_host`], but not copied if it is a field.
    pub fn host_value(&self) -> Option<HeaderValue> {
        match self.headers.get(header::HOST) {
            Some(host) => Some(host.clone()),
            None => HeaderValue::from_str(self.authority.unwrap_or_default()).ok(),
        }
    }

    /// Appends the arrived X-Forwarded-For and the peer's address.
    pub fn append_forwarded_for(&self, out: &mut Vec<u8>) {
        let start = out.len();
        self.append_field("x-forwarded-for", out);
        if out.len() > start {
            out.extend_from_slice(b", ");
        }
        self.append_peer(out);
    }

    fn append_peer(&self, out: &mut Vec<u8>) {
        match self.peer {
            Some(peer) => out.extend_from_slice(peer.ip().to_canonical().to_string().as_bytes()),
            None => out.extend_from_slice(b"unix:"),
        }
    }

    fn append(&self, variable: &Variable, out: &mut Vec<u8>) {
        let mut text = |text: &str| out.extend_from_slice(text.as_bytes());
        match variable {
            Variable::Host => {
                let host = without_port(self.http_host());
                let host = host.strip_suffix(b".").unwrap_or(host);
                out.extend(host.iter().map(u8::to_ascii_lowercase));
            }
            Variable::ServerPort => {
                if let Some(local) = self.local {
                    text(&local.port().to_string());
                }
            }
            Variable::ServerAddr => {
                if let Some(local) = self.local {
                    text(&local.ip().to_canonical().to_string());
                }
            }
            Variable::Scheme => text(self.scheme),
            Variable::RemoteAddr => text(&self.client.to_string()),
            Variable::RemotePort => {
                // The peer's port belongs to the client only if both have the same address.
                if let Some(peer) = self.peer
                    && self.client == ClientAddress::Ip(peer.ip().to_canonical())
                {
                    text(&peer.port().to_string());
                }
            }
            Variable::RequestUri => out.extend_from_slice(self.target),
            Variable::Uri => {
                let sent = self.path_and_query().0;
                out.extend_from_slice(self.path.map_or(sent, str::as_bytes));
            }
            Variable::IsArgs if self.path_and_query().1.is_empty() => {}
            Variable::IsArgs => text("?"),
            Variable::QueryString => out.extend_from_slice(self.path_and_query().1),
            Variable::Argument(name) => {
                out.extend_from_slice(self.argument(name).unwrap_or_default());
            }
            Variable::Field(name) if name == "host" => out.extend_from_slice(self.http_host()),
            Variable::Field(name) => self.append_field(name, out),
            Variable::Cookie(name) => out.extend_from_slice(self.cookie(name).unwrap_or_default()),
            Variable::RequestId => out.extend_from_slice(self.request_id.as_bytes()),
            Variable::RequestMethod => text(self.method.as_str()),
            Variable::ForwardedFor => self.append_forwarded_for(out),
            Variable::ClientSubject => text(self.client_subject.unwrap_or_default()),
            Variable::ClientVerify => match (self.client_subject, self.scheme) {
                (Some(_), _) => text("SUCCESS"),
                (None, "https") => text("NONE"),
                // As in nginx, the variable is empty without TLS.
                (None, _) => {}
            },
            Variable::UpstreamAddr => {
                if let Some(server) = self.server {
                    text(&server.to_string());
                }
            }
            Variable::User => text(self.user()),
            Variable::Claim(name) => {
                let claim = self.caller.and_then(|caller| caller.claim(name));
                text(&claim.unwrap_or_default());
            }
            Variable::AuthField(name) => {
                if let Some(caller) = self.caller {
                    append_list(&caller.answer, name, out);
                }
            }
        }
    }

    fn user(&self) -> &'a str {
        let user = self.caller.and_then(|caller| caller.user.as_deref());
        user.unwrap_or_default()
    }

    fn append_field(&self, name: &str, out: &mut Vec<u8>) {
        append_list(self.headers, name, out);
    }

    fn argument(&self, name: &str) -> Option<&'a [u8]> {
        let query = self.path_and_query().1;
        query.split(|byte| *byte == b'&').find_map(|pair| {
            let (key, value) = split_at_byte(pair, b'=')?;
            key.eq_ignore_ascii_case(name.as_bytes()).then_some(value)
        })
    }

    fn cookie(&self, name: &str) -> Option<&'a [u8]> {
        self.headers
            .get_all(header::COOKIE)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'))
            .find_map(|pair| {
                let (key, value) = split_at_byte(pair.trim_ascii(), b'=')?;
                (key == name.as_bytes()).then_some(value)
            })
    }

    fn path_and_query(&self) -> (&'a [u8], &'a [u8]) {
        split_at_byte(self.target, b'?').unwrap_or((self.target, b""))
    }
}

/// Several fields of one name form one list (RFC 9110 section 5.3). Cookies have their own
/// separator (RFC 6265 section 4.2.1).
fn append_list(headers: &HeaderMap, name: &str, out: &mut Vec<u8>) {
    let separator: &[u8] = if name == "cookie" { b"; " } else { b", " };
    for (index, value) in headers.get_all(name).iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(separator);
        }
        out.extend_from_slice(value.as_bytes());
    }
}

fn split_at_byte(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let index = bytes.iter().position(|byte| *byte == at)?;
    Some((&bytes[..index], &bytes[index + 1..]))
}

/// Removes the port from `host:port` or `[v6]:port`. Brackets stay, as in nginx.
fn without_port(host: &[u8]) -> &[u8] {
    if host.starts_with(b"[") {
        let end = host
            .iter()
            .position(|byte| *byte == b']')
            .map_or(host.len(), |at| at + 1);
        return &host[..end];
    }
    split_at_byte(host, b':').map_or(host, |(host, _)| host)
}

#[cfg(test)]
mod tests;
