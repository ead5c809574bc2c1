//! Groups of servers: those of `upstream` blocks, and those that `proxy_pass` names by address.

use std::path::{Path, PathBuf};

use http::HeaderName;

use super::levels::Levels;
use super::notes::Note;
use super::target::{Target, is_server, split_port, with_port};
use super::tree::Directive;
use super::variables::Variables;
use super::{health, known, retries, units};
use crate::import::yaml::{List, Map, Yaml};

pub struct Upstreams<'t> {
    defined: Vec<&'t Directive>,
    used: Vec<Used>,
    variables: Variables,
    /// Relative files are its.
    folder: PathBuf,
    /// What was said at the groups themselves.
    notes: Vec<Note>,
}

struct Used {
    /// The group or address that `proxy_pass` names, and whether by TLS.
    source: (String, bool),
    name: String,
    map: Map,
    /// What the routes to it have said of it.
    settings: Map,
}

impl<'t> Upstreams<'t> {
    pub fn new(http: &'t [Directive], folder: &Path) -> Self {
        let defined = http.iter().filter(|block| block.name == "upstream");
        Self {
            defined: defined.collect(),
            used: Vec::new(),
            variables: Variables::of(&Levels::new(http)),
            folder: folder.to_owned(),
            notes: Vec::new(),
        }
    }

    /// The name of the upstream for what stands in `pass`, as it holds at these levels.
    pub fn name_for(
        &mut self,
        target: &Target,
        pass: &Directive,
        levels: &Levels<'_>,
        notes: &mut Vec<Note>,
    ) -> Option<String> {
        let defined = self.block(target);
        let source = match defined {
            Some(block) => block.arg(0).to_owned(),
            None => target.address(),
        };
        let source = (source, target.is_tls);
        let settings = retries::settings(levels, notes);
        if let Some(used) = self.used.iter().find(|used| used.source == source) {
            if used.settings != settings {
                notes.push(Note::left_out(
                    pass,
                    format!(
                        "its proxy_next_upstream, proxy_bind and proxy_ssl are those of the first route to {}",
                        used.name
                    ),
                ));
            }
            return Some(used.name.clone());
        }
        let (mut map, hosts) = match defined {
            Some(block) => {
                let group = Group::new(block, &self.variables, &mut self.notes)?;
                group.finish(block, &mut self.notes)
            }
            None => {
                let map = Map::default().with("servers", Yaml::texts([&source.0]));
                (map, vec![target.host().0.to_owned()])
            }
        };
        if target.is_tls {
            let (tls, files) = self.tls(levels, &hosts, notes);
            map.set_with_files("tls", tls, files);
        }
        map.append(settings.clone());
        let name = self.free_name(&source);
        self.used.push(Used {
            source,
            name: name.clone(),
            map,
            settings,
        });
        Some(name)
    }

    /// The `upstream` of this name, in whatever case.
    fn block(&self, target: &Target) -> Option<&'t Directive> {
        let mut defined = self.defined.iter();
        defined
            .find(|block| block.arg(0).eq_ignore_ascii_case(&target.authority))
            .copied()
    }

    /// The addresses of all servers.
    pub fn addresses(&self, target: &Target) -> Vec<String> {
        match self.block(target) {
            Some(block) => {
                let servers = block.each("server");
                servers
                    .map(|server| with_port(server.arg(0), "80"))
                    .collect()
            }
            None => vec![target.address()],
        }
    }

    /// The first server's address, for those who need one.
    pub fn first_address(&self, target: &Target) -> Option<String> {
        match self.block(target) {
            Some(block) => block
                .each("server")
                .next()
                .map(|server| with_port(server.arg(0), "80")),
            None => Some(target.address()),
        }
    }

    /// All of them, for the file, and what was said of them. Groups that no route has named are
    /// among them.
    pub fn finish(mut self) -> (Map, Vec<Note>) {
        let mut map = Map::default();
        for block in &self.defined {
            if self.used.iter().any(|used| used.source.0 == block.arg(0)) {
                continue;
            }
            let mut notes = Vec::new();
            match Group::new(block, &self.variables, &mut notes) {
                Some(group) => {
                    let source = (block.arg(0).to_owned(), false);
                    let name = self.free_name(&source);
                    self.used.push(Used {
                        source,
                        name,
                        map: group.finish(block, &mut notes).0,
                        settings: Map::default(),
                    });
                }
                None => notes.iter().for_each(|note| map.comment(note.comment())),
            }
            self.notes.extend(notes);
        }
        for used in self.used {
            map.set(used.name, used.map);
        }
        (map, self.notes)
    }

    fn free_name(&self, (source, is_tls): &(String, bool)) -> String {
        let is_part = |letter: char| letter.is_ascii_alphanumeric() || "._".contains(letter);
        let words = source.split(|letter| !is_part(letter));
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        let mut name = words.join("-");
        if !name.starts_with(|letter: char| letter.is_ascii_alphanumeric()) {
            name = format!("upstream{name}");
        }
        let is_taken = |name: &str| {
            let defined = self
                .defined
                .iter()
                .any(|block| block.arg(0) == name && name != source);
            defined || self.used.iter().any(|used| used.name == name)
        };
        if *is_tls && is_taken(&name) {
            name.push_str("-tls");
        }
        while is_taken(&name) {
            name.push('-');
        }
        name
    }

    fn tls(
        &self,
        levels: &Levels<'_>,
        hosts: &[String],
        notes: &mut Vec<Note>,
    ) -> (Map, Vec<PathBuf>) {
        let mut map = Map::default();
        let mut files = Vec::new();
        let variables = Variables::of(levels);
        let name = levels.last("proxy_ssl_name");
        let sni = name.and_then(|name| variables.literal(name.arg(0)));
        if let (Some(name), None) = (name, &sni) {
            notes.push(Note::left_out(name, "`sni` is one name, without variables"));
        }
        let mut names: Vec<&String> = hosts.iter().filter(|host| is_name(host)).collect();
        names.sort_unstable();
        names.dedup();
        match (sni, names.as_slice()) {
            (Some(sni), _) if is_server(&with_port(&sni, "1")) => map.set("sni", Yaml::text(sni)),
            (_, [first, _, ..]) => map.set("sni", Yaml::text(first.as_str())),
            (_, _) => {}
        }
        let mut file = |map: &mut Map, key: &str, name: &str| {
            if let Some(file) = levels.value(name) {
                let path = self.folder.join(file);
                map.set(key, Yaml::text(path.display().to_string()));
                files.push(path);
            }
        };
        match levels.is_on("proxy_ssl_verify") {
            true => file(&mut map, "ca", "proxy_ssl_trusted_certificate"),
            false => map.set("verify", Yaml::plain(false)),
        }
        if levels.last("proxy_ssl_certificate_key").is_some() {
            file(&mut map, "client_cert", "proxy_ssl_certificate");
            file(&mut map, "client_key", "proxy_ssl_certificate_key");
        }
        (map, files)
    }
}

fn is_name(host: &str) -> bool {
    !host.starts_with('[') && host.parse::<std::net::IpAddr>().is_err()
}

/// An `upstream` block, read.
struct Group {
    servers: List,
    /// In small letters.
    addresses: Vec<String>,
    /// How many are no backups.
    firsts: usize,
    hosts: Vec<String>,
    balance: Map,
    /// `max_fails` and `fail_timeout`, as the first server has them. `None`: never taken out.
    eject: Option<(u32, std::time::Duration)>,
    rest: Map,
    comments: Vec<String>,
}

impl Group {
    /// `None`: no server can be reached.
    fn new(block: &Directive, variables: &Variables, notes: &mut Vec<Note>) -> Option<Self> {
        let mut group = Self {
            servers: List::default(),
            addresses: Vec::new(),
            firsts: 0,
            hosts: Vec::new(),
            balance: Map::default(),
            eject: None,
            rest: Map::default(),
            comments: Vec::new(),
        };
        let mut own = Vec::new();
        for server in block.each("server") {
            group.server(server, &mut own);
        }
        for directive in block.inner() {
            group.directive(directive, variables, &mut own);
        }
        if let Some(check) = health::check(block, &mut own) {
            group.rest.set("health_check", check);
        }
        group.comments = own.iter().map(Note::comment).collect();
        notes.extend(own);
        if group.firsts == 0 {
            notes.push(Note::left_out(
                block,
                "none of its servers but backups can be reached by TCP",
            ));
            return None;
        }
        Some(group)
    }

    fn server(&mut self, server: &Directive, notes: &mut Vec<Note>) {
        let address = with_port(server.arg(0), "80");
        if !is_server(&address) {
            notes.push(Note::left_out(
                server,
                "servers are reached by TCP, at a fixed address",
            ));
            return;
        }
        if self.addresses.contains(&address.to_ascii_lowercase()) {
            notes.push(Note::left_out(
                server,
                "a server is there once: its weight may be more",
            ));
            return;
        }
        let mut extras = Map::default();
        let (mut fails, mut timeout) = (1, std::time::Duration::from_secs(10));
        for word in &server.args[1..] {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let number = value.parse::<u32>().ok();
            match (key, number) {
                ("down", _) => {
                    notes.push(Note::no_meaning(
                        server,
                        "a server that is down is left out",
                    ));
                    return;
                }
                ("weight", Some(1)) | ("max_conns", Some(0)) | ("resolve", _) => {}
                ("weight", Some(weight @ 1..=65_535)) => extras.set("weight", Yaml::plain(weight)),
                ("max_conns", Some(most)) => extras.set("max_sessions", Yaml::plain(most)),
                ("backup", _) => extras.set("backup", Yaml::plain(true)),
                ("max_fails", Some(number)) => fails = number,
                ("fail_timeout", _) => timeout = units::time(value).unwrap_or(timeout),
                ("slow_start", _) if !self.rest.has("slow_start") => {
                    let time = units::time(value).unwrap_or_default();
                    self.rest
                        .set("slow_start", Yaml::plain(units::written(time)));
                }
                ("slow_start", _) => {}
                _ => notes.push(Note::left_out(server, format!("a server has no \"{key}\""))),
            }
        }
        if self.hosts.is_empty() {
            self.eject = (fails > 0 && !timeout.is_zero()).then_some((fails, timeout));
        }
        self.hosts.push(split_port(&address).0.to_owned());
        self.addresses.push(address.to_ascii_lowercase());
        self.firsts += usize::from(!extras.has("backup"));
        if extras.is_empty() {
            self.servers.push(Yaml::text(address));
        } else {
            let mut map = Map::default().with("address", Yaml::text(&address));
            map.append(extras);
            self.servers.push(map);
        }
    }

    fn directive(&mut self, directive: &Directive, variables: &Variables, notes: &mut Vec<Note>) {
        let by_hash = |key: String| {
            Map::default()
                .with("balance", Yaml::text("consistent_hash"))
                .with("hash_key", Yaml::text(key))
        };
        let by = |way: &str| Map::default().with("balance", Yaml::text(way));
        match directive.name.as_str() {
            "least_conn" => self.balance = by("least_sessions"),
            "random" => self.balance = by("two_choices"),
            "ip_hash" => self.balance = by_hash("$remote_addr".to_owned()),
            "hash" => match variables.template(directive.arg(0)) {
                Ok(key) => self.balance = by_hash(key),
                Err(unknown) => notes.push(Note::left_out(directive, unknown.why())),
            },
            "keepalive" => {
                let kept: usize = directive.arg(0).parse().unwrap_or(128);
                if kept != 128 {
                    self.rest.set("keepalive", Yaml::plain(kept));
                }
            }
            "sticky" if self.rest.has("affinity") => {
                notes.push(Note::left_out(directive, "an upstream has one affinity"));
            }
            "sticky" => self.sticky(directive, notes),
            "server" | "check" | "check_http_send" | "check_http_expect_alive" => {}
            "keepalive_timeout" => {
                notes.push(Note::no_meaning(
                    directive,
                    "idle connections are kept while they last",
                ));
            }
            "least_time" | "fair" => {
                self.balance = by("two_choices");
                notes.push(Note::left_out(
                    directive,
                    "two_choices is the nearest to it",
                ));
            }
            _ => notes.extend(known::note(directive)),
        }
    }

    fn sticky(&mut self, sticky: &Directive, notes: &mut Vec<Note>) {
        let value = |key: &str| sticky.args.iter().find_map(|word| word.strip_prefix(key));
        let cookie = match sticky.arg(0) {
            "cookie" => sticky.arg(1),
            "route" | "learn" => {
                notes.push(Note::left_out(
                    sticky,
                    "write an affinity by a header, or a hash of the cookie",
                ));
                return;
            }
            _ => value("name=").unwrap_or("route"),
        };
        let lower = cookie.to_ascii_lowercase();
        if HeaderName::from_bytes(lower.as_bytes()).is_err() {
            notes.push(Note::left_out(sticky, "it cannot be the name of a cookie"));
            return;
        }
        let mut affinity = Map::default().with("cookie", Yaml::text(cookie));
        let expires = value("expires=").and_then(units::time);
        if let Some(expires) = expires.filter(|time| !time.is_zero() && time.subsec_nanos() == 0) {
            affinity.set("max_age", Yaml::text(units::written(expires)));
        }
        let same_site = value("samesite=").map(str::to_ascii_lowercase);
        // Browsers take these only so.
        let needs_secure = same_site.as_deref() == Some("none")
            || lower.starts_with("__host-")
            || lower.starts_with("__secure-");
        if let Some(same_site @ ("strict" | "lax" | "none")) = same_site.as_deref() {
            affinity.set("same_site", Yaml::text(same_site));
        }
        if needs_secure || sticky.args.iter().any(|word| word == "secure") {
            affinity.set("secure", Yaml::plain(true));
        }
        self.rest.set("affinity", affinity);
    }

    fn finish(mut self, block: &Directive, notes: &mut Vec<Note>) -> (Map, Vec<String>) {
        let mut map = Map::default();
        for comment in self.comments {
            map.comment(comment);
        }
        map.append(self.balance);
        let several = self.hosts.len() > 1;
        map.set("servers", std::mem::take(&mut self.servers));
        if let Some((fails, timeout)) = self.eject.filter(|_| several) {
            let time = units::written(timeout);
            let mut eject = Map::default().with("failures", Yaml::plain(fails));
            eject.set("within", Yaml::plain(&time));
            eject.set("for", Yaml::plain(time));
            map.set("eject", eject);
        }
        map.append(self.rest);
        let words = |server: &Directive| -> Vec<String> {
            let is_about = |word: &&String| {
                word.starts_with("max_fails=") || word.starts_with("fail_timeout=")
            };
            server.args.iter().filter(is_about).cloned().collect()
        };
        let mut up = block
            .each("server")
            .filter(|server| !server.args.iter().any(|word| word == "down"));
        let first = up.next();
        let different = up.find(|server| first.is_some_and(|first| words(first) != words(server)));
        if let Some(server) = different {
            let note = Note::left_out(
                server,
                "`eject` is one for the upstream: the first server's",
            );
            map.comment(note.comment());
            notes.push(note);
        }
        (map, self.hosts)
    }
}
