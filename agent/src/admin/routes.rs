//! Everything that can be asked: one row each of method, path, who may ask, parameters, bodies, and what is done.
//!
//! A row's parameters that begin with a capital letter are headers. What a row does not name is refused, so that nobody takes a
//! condition or a dry run for done that was not looked at. A request's body and an answer's are the types of `weft-api`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::{HeaderMap, Method, Request, Response};
use schemars::SchemaGenerator;
use serde::de::DeserializeOwned;
use serde_json::Value;
use weft_api::{
    Attach, Attached, Check, Checkup, CheckupStart, Code, Config, ConfigChange, Description, DnsAnswer, DnsWhy, DrainView, Drops,
    EndpointAdd, EndpointSpec, EndpointView, Gc, HealthView, NamespacePut, NamespaceView, Network, NetworkChange, NetworkCreate,
    NetworkInit, NodeView, Plan, Precondition, Release, ReservationView, Reserve, ServiceCreate, ServiceCreated, ServiceSpec,
    ServiceView, Status,
};
use weft_api::{LeaderSet, LeaderView, Register, Registered};

use weft_api::store::{StoreExport, StoreImport, StoreImported};

use super::answer::{Body, Listed, Reply, Tagged};
use super::endpoint_put::Named;
use super::events::{Stream, Wanted};
use super::filter::{Filter, Part};
use super::health::may_check;
use super::openapi::{self, Given, Gives, Takes};
use super::precondition::Write;
use super::query::{Query, unescape};
use super::store::MAX_PART;
use super::{Admin, Caller};
use crate::names::Reach;
use crate::refusal::Refusal;

/// The largest request body, bytes.
const MAX_BODY: usize = 1 << 20;

/// How long one may take to come.
const BODY_BOUND: Duration = Duration::from_secs(60);

/// How much of a larger one is passed over before the connection is closed.
const MAX_PASSED_OVER: usize = 16 << 20;

/// What a handler comes to.
type Doing = Pin<Box<dyn Future<Output = Result<Response<Body>, Refusal>> + Send>>;

/// Something that can be asked.
pub(super) struct Route {
    /// By which method.
    pub method: Method,
    /// Where; a segment in braces stands for any one.
    pub path: &'static str,
    /// Who may ask.
    pub access: Access,
    /// The parameters that it knows.
    pub params: &'static [&'static str],
    /// What the request's body is.
    pub takes: Option<Takes>,
    /// What the answer's is.
    pub gives: fn(&mut SchemaGenerator) -> Gives,
    carry_out: fn(Asked) -> Doing,
}

/// Who may ask for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Whoever may read.
    Read,
    /// Whoever may write.
    Write,
    /// Callers on this host only: it is about this host's kernel, namespaces or processes.
    Local,
}

/// A request, as its handler sees it.
pub(super) struct Asked {
    admin: Arc<Admin>,
    caller: Caller,
    /// What stood for the braces of the path, in order.
    segments: Vec<String>,
    query: Query,
    write: Write,
    /// The last event of a stream that broke.
    last_event: Option<String>,
    body: Bytes,
}

impl Asked {
    /// What stood for the path's braces, counted from 0.
    fn segment(&self, at: usize) -> &str {
        self.segments.get(at).map_or("", String::as_str)
    }

    fn filter(&self) -> Result<Filter, Refusal> {
        Filter::of(&self.query)
    }

    fn part(&self) -> Result<Part, Refusal> {
        Part::of(&self.query)
    }

    fn body<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        read_object(&self.body)
    }

    /// The body, or what none means.
    fn body_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, Refusal> {
        if self.body.is_empty() { Ok(T::default()) } else { self.body() }
    }

    fn endpoint(&self) -> Result<Named, Refusal> {
        Named::new(self.segment(0), self.segment(1), self.segment(2))
    }
}

/// Every body is an object. serde would take a list of its members' values for one, too, which nobody means.
fn read_object<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(Refusal::invalid("the request's body: it is a list, and should be an object: {…}"));
    }
    serde_json::from_slice(body).map_err(|e| Refusal::invalid(format!("the request's body: {e}")))
}

/// A row: `METHOD path, access, [parameters], body => answer, |request, body| what is done`. Before a body that may be left out
/// stands `maybe`.
macro_rules! route {
    ($method:ident $path:literal, $access:ident, [$($param:literal),*], => $out:ty, |$r:ident| $do:expr) => {
        route!(@row $method $path, $access, [$($param),*], None, $out, $r, $do)
    };
    ($method:ident $path:literal, $access:ident, [$($param:literal),*], maybe $in:ty => $out:ty, |$r:ident, $body:ident| $do:expr) => {
        route!(@row $method $path, $access, [$($param),*], Some(Takes::maybe::<$in>()), $out, $r, {
            let $body: $in = $r.body_or_default()?;
            $do
        })
    };
    ($method:ident $path:literal, $access:ident, [$($param:literal),*], $in:ty => $out:ty, |$r:ident, $body:ident| $do:expr) => {
        route!(@row $method $path, $access, [$($param),*], Some(Takes::always::<$in>()), $out, $r, {
            let $body: $in = $r.body()?;
            $do
        })
    };
    (@row $method:ident $path:literal, $access:ident, [$($param:literal),*], $takes:expr, $out:ty, $r:ident, $do:expr) => {
        Route {
            method: Method::$method,
            path: $path,
            access: Access::$access,
            params: &[$($param),*],
            takes: $takes,
            gives: <$out as Given>::gives,
            carry_out: |$r| Box::pin(async move {
                let done: Result<$out, Refusal> = async move { $do }.await;
                done?.reply()
            }),
        }
    };
}

/// The rows. Of two that fit, the first counts: words before braces.
#[rustfmt::skip]
pub(super) static ROUTES: &[Route] = &[
    route!(GET "/v1/openapi.json", Read, [], => &'static Value, |_r| Ok(openapi::document())),
    route!(GET "/v1/status", Read, [], => Status, |r| Ok(r.admin.status())),
    route!(GET "/v1/network", Read, [], => Network, |r| r.admin.network()),
    route!(PUT "/v1/network", Write, [], NetworkInit => Network, |r, init| r.admin.network_init(init).await),
    route!(PATCH "/v1/network", Write, [], NetworkChange => Network, |r, change| r.admin.network_set(change).await),
    route!(GET "/v1/networks", Read, [], => Vec<Network>, |r| r.admin.networks()),
    route!(POST "/v1/networks", Write, [], NetworkCreate => Network, |r, create| r.admin.network_create(create).await),
    route!(GET "/v1/networks/{network}", Read, [], => Network, |r| r.admin.network_named(r.segment(0))),
    route!(DELETE "/v1/networks/{network}", Write, [], => Network, |r| r.admin.network_rm(r.segment(0)).await),
    route!(GET "/v1/reservations", Read, [], => Vec<ReservationView>, |r| r.admin.reservations()),
    route!(POST "/v1/reservations", Write, [], Reserve => ReservationView, |r, reserve| r.admin.reserve(reserve).await),
    route!(DELETE "/v1/reservations/{node}", Write, [], => ReservationView, |r| r.admin.unreserve(r.segment(0)).await),
    route!(GET "/v1/config", Read, [], => Config, |r| r.admin.config()),
    route!(PATCH "/v1/config", Write, [], ConfigChange => Config, |r, change| r.admin.config_change(change).await),
    route!(GET "/v1/nodes", Read, [], => Vec<NodeView>, |r| r.admin.nodes()),
    route!(GET "/v1/nodes/{node}", Read, [], => NodeView, |r| r.admin.node(r.segment(0))),
    route!(DELETE "/v1/nodes/{node}", Write, [], => NodeView, |r| r.admin.node_rm(r.segment(0)).await),
    route!(GET "/v1/nodes/{node}/drain", Read, [], => DrainView, |r| r.admin.node_drain(r.segment(0)).await),
    route!(PUT "/v1/nodes/{node}/drain", Write, ["deadline_ms"], => DrainView,
        |r| r.admin.drain_node(r.segment(0), r.query.value("deadline_ms")?).await),
    route!(DELETE "/v1/nodes/{node}/drain", Write, [], => DrainView, |r| r.admin.undrain_node(r.segment(0)).await),
    route!(GET "/v1/namespaces", Read, ["limit", "continue"], => Listed<NamespaceView>,
        |r| r.admin.namespaces(&r.part()?)),
    route!(GET "/v1/namespaces/{namespace}", Read, [], => Tagged<NamespaceView>, |r| r.admin.namespace(r.segment(0))),
    route!(PUT "/v1/namespaces/{namespace}", Write, ["dry_run", "If-Match", "If-None-Match"],
        maybe NamespacePut => Tagged<NamespaceView>,
        |r, put| { let NamespacePut {} = put; r.admin.namespace_put(r.segment(0), r.write).await }),
    route!(DELETE "/v1/namespaces/{namespace}", Write, ["dry_run", "If-Match"], => NamespaceView,
        |r| r.admin.namespace_rm(r.segment(0), r.write).await),
    route!(GET "/v1/endpoints", Read, ["namespace", "service", "node", "state", "kind", "network", "label", "limit", "continue"],
        => Listed<EndpointView>, |r| r.admin.endpoints(&r.filter()?, &r.part()?)),
    route!(POST "/v1/endpoints", Write, [], EndpointAdd => EndpointView, |r, add| r.admin.endpoint_add(add).await),
    route!(DELETE "/v1/endpoints/{id}", Write, ["service"], => EndpointView,
        |r| r.admin.endpoint_rm(r.segment(0), r.query.get("service")).await),
    route!(GET "/v1/endpoints/{id}/health", Local, [], => HealthView, |r| r.admin.endpoint_health(r.segment(0))),
    route!(GET "/v1/endpoints/{id}/drain", Read, ["service"], => DrainView,
        |r| r.admin.endpoint_drain(r.segment(0), r.query.get("service")).await),
    route!(PUT "/v1/endpoints/{id}/drain", Write, ["service", "deadline_ms"], => DrainView,
        |r| r.admin.drain_endpoint(r.segment(0), r.query.get("service"), r.query.value("deadline_ms")?).await),
    route!(DELETE "/v1/endpoints/{id}/drain", Write, ["service"], => DrainView,
        |r| r.admin.undrain_endpoint(r.segment(0), r.query.get("service")).await),
    route!(GET "/v1/endpoints/{namespace}/{service}/{id}", Read, [], => Tagged<EndpointView>,
        |r| r.admin.endpoint(&r.endpoint()?)),
    route!(PUT "/v1/endpoints/{namespace}/{service}/{id}", Write, ["dry_run", "If-Match", "If-None-Match"],
        EndpointSpec => Tagged<EndpointView>, |r, spec| r.admin.endpoint_put(&r.endpoint()?, spec, r.write).await),
    route!(DELETE "/v1/endpoints/{namespace}/{service}/{id}", Write, ["dry_run", "If-Match"], => EndpointView,
        |r| r.admin.endpoint_delete(&r.endpoint()?, r.write).await),
    route!(GET "/v1/services", Read, ["namespace", "network", "label", "limit", "continue"], => Listed<ServiceView>,
        |r| r.admin.services(&r.filter()?, &r.part()?)),
    route!(POST "/v1/services", Write, [], ServiceCreate => ServiceCreated, |r, create| r.admin.service_create(create).await),
    route!(GET "/v1/services/{namespace}/{service}", Read, [], => Tagged<ServiceView>,
        |r| r.admin.service(r.segment(0), r.segment(1))),
    route!(PUT "/v1/services/{namespace}/{service}", Write, ["dry_run", "If-Match", "If-None-Match"],
        ServiceSpec => Tagged<ServiceCreated>, |r, spec| r.admin.service_put(r.segment(0), r.segment(1), spec, r.write).await),
    route!(DELETE "/v1/services/{namespace}/{service}", Write, ["dry_run", "If-Match"], => ServiceView,
        |r| r.admin.service_rm(r.segment(0), r.segment(1), r.write).await),
    route!(GET "/v1/services/{namespace}/{service}/leader", Read, [], => LeaderView,
        |r| r.admin.leader(r.segment(0), r.segment(1))),
    route!(PUT "/v1/services/{namespace}/{service}/leader", Write, [], LeaderSet => LeaderView,
        |r, set| r.admin.leader_set(r.segment(0), r.segment(1), Some(set)).await),
    route!(DELETE "/v1/services/{namespace}/{service}/leader", Write, [], => LeaderView,
        |r| r.admin.leader_set(r.segment(0), r.segment(1), None).await),
    route!(GET "/v1/registrations", Local, [], => Vec<Registered>, |r| Ok(r.admin.registrations.list().await)),
    route!(GET "/v1/registrations/{id}", Local, [], => Registered, |r| r.admin.registrations.get(r.segment(0)).await),
    route!(PUT "/v1/registrations/{id}", Local, [], Register => Registered,
        |r, said| {
            may_check(&r.caller, said.check.as_ref())?;
            r.admin.register(r.segment(0), said, &r.caller).await
        }),
    route!(DELETE "/v1/registrations/{id}", Local, [], => Registered,
        |r| r.admin.registrations.withdraw(r.segment(0)).await),
    route!(GET "/v1/watch", Read, ["kind", "namespace", "service", "node", "network", "label", "from", "Last-Event-ID"], => Stream, |r| {
        let wanted = Wanted::of(&r.query, r.last_event.as_deref())?;
        r.admin.watch(wanted, r.caller.clone()).await
    }),
    route!(GET "/v1/attachments", Local, [], => Vec<Attached>, |r| Ok(r.admin.attachments.list())),
    route!(POST "/v1/attachments", Local, [], Attach => Attached,
        |r, attach| {
            may_check(&r.caller, attach.check.as_ref())?;
            r.admin.attachments.attach_for(attach, r.caller.clone()).await
        }),
    route!(POST "/v1/attachments/release", Local, [], Release => Vec<Attached>,
        |r, release| r.admin.attachments.release(release).await),
    route!(POST "/v1/attachments/gc", Local, [], Gc => Vec<Attached>, |r, gc| r.admin.attachments.gc(gc).await),
    route!(POST "/v1/attachments/check", Local, [], Check => Attached, |r, check| r.admin.attachments.check(&check).await),
    route!(PATCH "/v1/attachments/{id}", Local, [], Description => Attached,
        |r, description| {
            may_check(&r.caller, description.check.as_ref())?;
            r.admin.attachments.describe(r.segment(0), description).await
        }),
    route!(DELETE "/v1/attachments/{id}", Local, [], => Attached, |r| r.admin.attachments.detach(r.segment(0)).await),
    route!(GET "/v1/dns/query", Read, ["name", "type"], => DnsAnswer, |r| {
        let name = r.query.get("name").filter(|name| !name.is_empty()).ok_or_else(|| Refusal::invalid("dns query: no name given"))?;
        r.admin.names.query(name, r.query.get("type").unwrap_or("A"), reach(&r.caller)).await
    }),
    route!(GET "/v1/dns/why", Read, ["name", "type"], => DnsWhy, |r| {
        let name = r.query.get("name").filter(|name| !name.is_empty()).ok_or_else(|| Refusal::invalid("dns why: no name given"))?;
        r.admin.names.why(name, r.query.get("type").unwrap_or("A"), reach(&r.caller)).await
    }),
    route!(POST "/v1/doctor", Local, [], CheckupStart => Checkup, |r, start| r.admin.doctor.begin(&r.admin, start)),
    route!(GET "/v1/doctor/{id}", Local, [], => Checkup, |r| r.admin.doctor.checkup(r.segment(0))),
    route!(GET "/v1/store/export", Local, ["from", "revision"], => StoreExport, |r| r.admin.store_export(&r.query).await),
    route!(POST "/v1/store/import", Local, [], StoreImport => StoreImported, |r, part| r.admin.store_import(part).await),
    route!(GET "/v1/plan", Local, [], => Plan, |r| r.admin.plan().await),
    route!(GET "/v1/drops", Local, ["all"], => Drops, |r| r.admin.drops(r.query.flag("all")?).await),
];

/// Finds the row and does what it says.
pub(super) async fn carry_out(admin: &Arc<Admin>, caller: Caller, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    // A HEAD is answered as a GET; hyper leaves the body out.
    let method = if request.method() == Method::HEAD { Method::GET } else { request.method().clone() };
    let path = request.uri().path().to_owned();
    let (route, segments) = find(&method, &path)?;
    may_ask(&caller, route)?;
    let query = Query::parse(request.uri().query().unwrap_or_default(), route.params)?;
    // Libraries may add conditions to reads, to spare themselves an answer; those may be left unheeded.
    let reads = route.method == Method::GET;
    let condition = if reads { Precondition::None } else { condition(request.headers(), route.params)? };
    let write = Write { condition, dry_run: query.flag("dry_run")? };
    let most = if route.path == "/v1/store/import" { MAX_PART } else { MAX_BODY };
    let last_event = request.headers().get("Last-Event-ID").map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned());
    let body = tokio::time::timeout(BODY_BOUND, read(request.into_body(), most)).await.unwrap_or_else(|_| {
        let bound = BODY_BOUND.as_secs();
        Err(Refusal::invalid(format!("{method} {path}: the request's body was not there after {bound}s")))
    })?;
    (route.carry_out)(Asked { admin: admin.clone(), caller, segments, query, write, last_event, body }).await
}

/// How far names may be asked for by a caller.
fn reach(caller: &Caller) -> Reach {
    if caller.remote().is_some() { Reach::Zone } else { Reach::Others }
}

/// Whether a caller may ask for something. On this host the socket's mode decides.
fn may_ask(caller: &Caller, route: &Route) -> Result<(), Refusal> {
    let Some(remote) = caller.remote() else { return Ok(()) };
    let why = match route.access {
        Access::Local => {
            "it is about the host itself, its kernel, namespaces or processes: ask there, over weftd's socket".to_owned()
        }
        Access::Write if !remote.may_write => format!(
            "the certificate of {:?} is one for reading; one that an authority in --api-admin-ca has signed may write",
            remote.name
        ),
        Access::Read | Access::Write => return Ok(()),
    };
    Err(Refusal::new(Code::Forbidden, format!("{} {}: {why}", route.method, route.path)))
}

/// Reads a body. One that is too large is read to its end all the same, within reason: who still writes does not read why not.
async fn read(mut body: Incoming, most: usize) -> Result<Bytes, Refusal> {
    let mut read = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Refusal::invalid(format!("read the request: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        if length <= most {
            read.extend_from_slice(&data);
        } else if length > most + MAX_PASSED_OVER {
            break;
        }
    }
    if length > most {
        return Err(Refusal::new(Code::TooLarge, format!("the request's body has more than {most} bytes")));
    }
    Ok(Bytes::from(read))
}

/// The methods that there are for a path, as the header `Allow` has them.
pub(super) fn allowed(path: &str) -> String {
    let here = ROUTES.iter().filter(|route| fits(route.path, path).is_some()).map(|route| &route.method);
    let methods = here.flat_map(|method| if method == Method::GET { vec!["GET", "HEAD"] } else { vec![method.as_str()] });
    methods.collect::<Vec<_>>().join(", ")
}

fn find(method: &Method, path: &str) -> Result<(&'static Route, Vec<String>), Refusal> {
    let mut here = ROUTES.iter().filter_map(|route| Some((route, fits(route.path, path)?))).peekable();
    let there = here.peek().is_some();
    match here.find(|(route, _)| route.method == *method) {
        Some(found) => Ok(found),
        None if there => {
            let why = format!("{method} {path}: it can be asked by {} only", allowed(path));
            Err(Refusal::new(Code::MethodNotAllowed, why))
        }
        None => Err(Refusal::not_found(format!("{method} {path}: no such thing can be asked; is netctl as old as weftd?"))),
    }
}

/// What stands for the braces of a pattern, if the path fits it.
fn fits(pattern: &str, path: &str) -> Option<Vec<String>> {
    let mut found = Vec::new();
    let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return Some(found),
            (Some(word), Some(given)) if word.starts_with('{') && !given.is_empty() => found.push(unescape(given)),
            (Some(word), Some(given)) if word == given => {}
            _ => return None,
        }
    }
}

/// The condition that the headers set, where the row knows of conditions.
fn condition(headers: &HeaderMap, known: &[&str]) -> Result<Precondition, Refusal> {
    let header = |name: &str| -> Result<Option<&str>, Refusal> {
        let mut values = headers.get_all(name).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if !known.contains(&name) {
            return Err(Refusal::invalid(format!("header {name} is not understood here")));
        }
        match (value.to_str(), values.next()) {
            (Ok(text), None) => Ok(Some(text)),
            _ => Err(Refusal::invalid(format!("header {name}: one line of text is understood"))),
        }
    };
    Precondition::from_headers(header("If-Match")?, header("If-None-Match")?).map_err(Refusal::invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_can_be_reached() {
        for (at, row) in ROUTES.iter().enumerate() {
            let path: String = row.path.replace(['{', '}'], "");
            let (found, _) = find(&row.method, &path).unwrap_or_else(|e| panic!("{} {}: {e}", row.method, row.path));
            assert!(std::ptr::eq(found, &ROUTES[at]), "{} {} is hidden by {}", row.method, row.path, found.path);
        }
    }

    #[test]
    fn reading_rows_are_for_readers_and_no_other_is() {
        for row in ROUTES {
            assert_eq!(row.access == Access::Read, row.method == Method::GET && row.access != Access::Local, "{}", row.path);
        }
    }

    #[test]
    fn from_elsewhere_the_certificate_says_who_may_write_and_nobody_asks_what_is_the_hosts() {
        use crate::admin::caller::Remote;
        let caller = |may_write| {
            let from = "192.0.2.1:5000".parse().unwrap();
            Caller::from_elsewhere(Remote { name: "alice".to_owned(), from, may_write })
        };
        for row in ROUTES {
            let may = |caller: &Caller| may_ask(caller, row).map_err(|refusal| (refusal.code, refusal.message));
            assert_eq!(may(&Caller::default()), Ok(()));
            assert_eq!(may(&caller(true)).is_ok(), row.access != Access::Local, "{} {}", row.method, row.path);
            assert_eq!(may(&caller(false)).is_ok(), row.access == Access::Read, "{} {}", row.method, row.path);
            if let Err((code, why)) = may(&caller(false)) {
                assert!(code == Code::Forbidden && why.contains(row.path), "{why}");
            }
        }
    }

    #[test]
    fn braces_stand_for_one_segment_that_is_there() {
        assert_eq!(fits("/v1/nodes/{node}", "/v1/nodes/h%2F1"), Some(vec!["h/1".to_owned()]));
        for path in ["/v1/nodes", "/v1/nodes/", "/v1/nodes/a/b", "//v1/nodes/a", "/v1/nodes/a/"] {
            assert_eq!(fits("/v1/nodes/{node}", path), None, "{path}");
        }
    }

    #[test]
    fn a_wrong_method_is_told_the_right_ones() {
        let refusal = find(&Method::POST, "/v1/namespaces/prod").map(|_| ()).unwrap_err();
        assert_eq!(refusal.code, Code::MethodNotAllowed);
        assert_eq!(allowed("/v1/namespaces/prod"), "GET, HEAD, PUT, DELETE");
        assert_eq!(find(&Method::GET, "/v2").map(|_| ()).unwrap_err().code, Code::NotFound);
    }

    #[test]
    fn a_body_is_an_object_and_no_list_of_what_would_be_in_it() {
        use weft_api::ConfigChange;
        let read = |body: &str| read_object::<ConfigChange>(body.as_bytes());
        assert_eq!(read(r#" {"dns_domain":null}"#), Ok(ConfigChange::default()));
        assert!(read("\n [null, null]").unwrap_err().message.contains("a list"));
        assert_eq!(read("").unwrap_err().code, Code::Invalid);
    }

    #[test]
    fn a_condition_is_looked_at_or_refused() {
        let headers = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(hyper::header::HeaderName::from_static(name), hyper::header::HeaderValue::from_static(value))])
        };
        let both = &["If-Match", "If-None-Match"][..];
        assert_eq!(condition(&headers("if-none-match", "*"), both), Ok(Precondition::Absent));
        assert!(condition(&headers("if-none-match", "*"), &["If-Match"]).is_err(), "a deletion of what is not there");
        assert!(condition(&headers("if-match", "\"4\""), &[]).is_err(), "a write that would not look");
    }
}
