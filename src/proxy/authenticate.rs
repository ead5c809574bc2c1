//! Asks, before anything of a route answers, whether a request may come in, and as whom.

use http::{StatusCode, header};
use pingora_proxy::Session;

use super::answer::Answer;
use super::exchange::Exchange;
use super::fields::{server_target, variables};
use super::refuse::refuse;
use super::request_rate::refuse_over_rate;
use super::token;
use crate::auth::forward::{AskError, Forward, Granted, Refusal, Verdict};
use crate::auth::{Auth, Denied, Reason};
use crate::config::{Forwarded, Route};
use crate::forward::{Caller, ForwardingOptions};
use crate::observe::repeated::{self, Kind};

/// Why a request is answered here.
enum Stop {
    Denied(Denied),
    /// The auth server has answered in place of the route.
    Refused(Refusal),
    /// The auth server has given no answer that counts.
    NotAsked(AskError),
}

impl From<Denied> for Stop {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

/// `Some`: the request may not come in.
pub async fn authenticate(
    session: &mut Session,
    exchange: &mut Exchange,
    route: &Route,
) -> Option<Answer> {
    if let Err(denied) = route.access.check(exchange.client()) {
        return Some(deny(exchange, denied));
    }
    // Guessing a password is what a rate is often for, and this costs less than asking for one.
    if let Some(answer) = refuse_over_rate(session, exchange, route, false) {
        return Some(answer);
    }
    let auth = route.auth.as_deref()?;
    // Each method has a time limit of its own.
    exchange.clear_deadline();
    let mut caller = Box::<Caller>::default();
    // Boxed, so that the future of every other request is not as large as this one.
    let passed = Box::pin(pass(session, exchange, (route, auth), &mut caller)).await;
    match passed {
        Ok(()) => {
            exchange.caller = Some(caller);
            None
        }
        Err(Stop::Denied(denied)) => Some(deny(exchange, denied)),
        Err(Stop::Refused(refusal)) => Some(pass_on(exchange, refusal)),
        Err(Stop::NotAsked(error)) => Some(give_up(session, exchange, route, &error)),
    }
}

/// All that the route names must let the request in, one after the other.
async fn pass(
    session: &mut Session,
    exchange: &mut Exchange,
    (route, auth): (&Route, &Auth),
    caller: &mut Caller,
) -> Result<(), Stop> {
    if let Some(basic) = &auth.basic {
        let credentials = basic.credentials(&session.req_header().headers)?;
        caller.basic = Some(basic.verify(credentials).await?);
    }
    if let Some(jwt) = &auth.jwt {
        let verified = token::check(exchange, jwt).await?;
        caller.claims = verified.claims;
        caller.expires = verified.expires;
    }
    if let Some(forward) = &auth.forward {
        let granted = ask(session, exchange, route, forward).await?;
        caller.answer = granted.fields;
        caller.cookies = granted.cookies;
    }
    Ok(())
}

async fn ask(
    session: &mut Session,
    exchange: &mut Exchange,
    route: &Route,
    forward: &Forward,
) -> Result<Granted, Stop> {
    let request = session.req_header();
    let target = server_target(request, exchange, route);
    let target = target.as_deref().unwrap_or(request.raw_path());
    let options = ForwardingOptions {
        forwarded: Forwarded::XForwarded,
        trust: exchange.trust(),
        field: exchange.generation.config.client_address,
        answered: &[],
    };
    let question = forward.question(&variables(session, exchange), target, options);
    match forward.ask(question.map_err(Stop::NotAsked)?).await {
        Ok(Verdict::In(granted)) => Ok(granted),
        Ok(Verdict::Out(refusal)) => Err(Stop::Refused(refusal)),
        Err(error) => Err(Stop::NotAsked(error)),
    }
}

/// The answer to a request that may not come in. It is counted.
fn deny(exchange: &mut Exchange, denied: Denied) -> Answer {
    count(exchange, denied.reason);
    let mut answer = refuse(exchange, denied.rejection);
    if let Some(challenge) = denied.challenge {
        answer.fields.push((header::WWW_AUTHENTICATE, challenge));
    }
    answer
}

/// The auth server's answer, for the client.
fn pass_on(exchange: &mut Exchange, refusal: Refusal) -> Answer {
    count(exchange, Reason::Denied);
    let status = refusal.status.as_u16();
    let words = format!("the auth server has not let it in: {status}");
    exchange.outcome.refuse(words);
    let fields = refusal.fields.iter();
    Answer {
        status: refusal.status,
        body: refusal.body,
        fields: fields
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        may_be_page: false,
    }
}

/// Nobody knows whether the request may come in, so it may not. The client is not told why.
fn give_up(session: &Session, exchange: &mut Exchange, route: &Route, error: &AskError) -> Answer {
    count(exchange, Reason::Unavailable);
    let words = format!("the auth server cannot be asked: {error}");
    let (name, id) = (&route.name, exchange.names.id());
    let request = session.request_summary();
    let kind = Kind::of(format!("auth.forward of {name}"));
    repeated::warn(kind, format!("route {name:?}: {words} ({id} {request})"));
    exchange.outcome.refuse(words);
    Answer::error(
        StatusCode::SERVICE_UNAVAILABLE,
        "it cannot be found out now who may come in",
    )
}

fn count(exchange: &mut Exchange, reason: Reason) {
    let metrics = exchange.generation.metrics_of(exchange.route_id());
    metrics.count_denied(reason);
    exchange.outcome.deny();
}
