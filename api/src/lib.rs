//! The contract of weftd's UNIX socket, and of `--api-listen`: HTTP/1.1 and JSON under `/v1/`.
//!
//! Request and response types, the paths, and the client that `netctl`, attach plugins and tests share. Nothing here knows
//! the agent. Bodies that scripts rely on are named in ARCHITECTURE.md and change only by addition.
//!
//! | method and path | body in → out |
//! |---|---|
//! | `GET /v1/openapi.json` | → all of this for programs, OpenAPI 3.1 |
//! | `GET /v1/status` | → [`Status`] |
//! | `GET /v1/network` | → [`Network`] |
//! | `PUT /v1/network` | [`NetworkInit`] → [`Network`] |
//! | `PATCH /v1/network` | [`NetworkChange`] → [`Network`] |
//! | `GET /v1/networks`, `GET /v1/networks/{name}` | → list of [`Network`], [`Network`] |
//! | `POST /v1/networks` | [`NetworkCreate`] → [`Network`] |
//! | `DELETE /v1/networks/{name}` | → [`Network`] as it was |
//! | `GET /v1/reservations` | → list of [`ReservationView`] |
//! | `POST /v1/reservations` | [`Reserve`] → [`ReservationView`] |
//! | `DELETE /v1/reservations/{node}` | → [`ReservationView`] as it was |
//! | `GET /v1/config`, `PATCH /v1/config` | [`ConfigChange`] → [`Config`] |
//! | `GET /v1/nodes`, `GET /v1/nodes/{node}` | → list of [`NodeView`], [`NodeView`] |
//! | `DELETE /v1/nodes/{node}` | → [`NodeView`] as it was |
//! | `GET /v1/namespaces`, `GET /v1/namespaces/{namespace}` | → list of [`NamespaceView`], [`NamespaceView`] |
//! | `PUT /v1/namespaces/{namespace}` | → [`NamespaceView`] |
//! | `DELETE /v1/namespaces/{namespace}` | → [`NamespaceView`] as it was |
//! | `GET /v1/endpoints` | → list of [`EndpointView`] |
//! | `POST /v1/endpoints` | [`EndpointAdd`] → [`EndpointView`] |
//! | `GET /v1/endpoints/{namespace}/{service}/{id}` | → [`EndpointView`] |
//! | `PUT /v1/endpoints/{namespace}/{service}/{id}` | [`EndpointSpec`] → [`EndpointView`] |
//! | `DELETE /v1/endpoints/{namespace}/{service}/{id}` | → [`EndpointView`] as it was |
//! | `DELETE /v1/endpoints/{id}?service=` | → [`EndpointView`] |
//! | `GET`, `PUT`, `DELETE /v1/endpoints/{id}/drain?service=&deadline_ms=` | → [`DrainView`] |
//! | `GET /v1/endpoints/{id}/health` | → [`HealthView`], of an endpoint on this host |
//! | `GET`, `PUT`, `DELETE /v1/nodes/{node}/drain?deadline_ms=` | → [`DrainView`] |
//! | `GET /v1/services`, `GET /v1/services/{namespace}/{name}` | → list of [`ServiceView`], [`ServiceView`] |
//! | `POST /v1/services` | [`ServiceCreate`] → [`ServiceCreated`] |
//! | `PUT /v1/services/{namespace}/{name}` | [`ServiceSpec`] → [`ServiceCreated`] |
//! | `DELETE /v1/services/{namespace}/{name}` | → [`ServiceView`] |
//! | `GET /v1/watch?kind=&namespace=&service=&node=&network=&label=&from=` | → [`Event`]s, as they happen |
//! | `GET /v1/attachments` | → list of [`Attached`] |
//! | `POST /v1/attachments` | [`Attach`] → [`Attached`] |
//! | `DELETE /v1/attachments/{id}` | → [`Attached`] |
//! | `PATCH /v1/attachments/{id}` | [`Description`] → [`Attached`] |
//! | `POST /v1/attachments/release` | [`Release`] → `[`[`Attached`]`]`, those taken back |
//! | `POST /v1/attachments/check` | [`Check`] → [`Attached`] |
//! | `POST /v1/attachments/gc` | [`Gc`] → `[`[`Attached`]`]`, those taken back |
//! | `GET /v1/registrations`, `GET /v1/registrations/{id}` | → list of [`Registered`], [`Registered`] |
//! | `PUT /v1/registrations/{id}` | [`Register`] → [`Registered`] |
//! | `DELETE /v1/registrations/{id}` | → [`Registered`] as it was |
//! | `GET /v1/services/{namespace}/{name}/leader` | → [`LeaderView`] |
//! | `PUT /v1/services/{namespace}/{name}/leader` | [`LeaderSet`] → [`LeaderView`] |
//! | `DELETE /v1/services/{namespace}/{name}/leader` | → [`LeaderView`]: the oldest again |
//! | `GET /v1/dns/query?name=&type=` | → [`DnsAnswer`]; from elsewhere out of the zone alone |
//! | `GET /v1/dns/why?name=&type=` | → [`DnsWhy`]; from elsewhere out of the zone alone |
//! | `GET /v1/drops?all=` | → [`Drops`] |
//! | `GET /v1/plan` | → [`Plan`] |
//! | `POST /v1/doctor` | [`CheckupStart`] → [`Checkup`], just begun |
//! | `GET /v1/store/export?from=&revision=` | → [`StoreExport`](store::StoreExport), a page |
//! | `POST /v1/store/import` | [`StoreImport`](store::StoreImport) → [`StoreImported`](store::StoreImported) |
//! | `GET /v1/doctor/{id}` | → [`Checkup`] as far as it is |
//!
//! Every answer says in `Weft-Revision` at which revision of the store it stands, and one of a single object in `ETag` when that
//! was last changed. Writes that name `If-Match: "<revision>"` or `If-None-Match: *` ([`Precondition`]) are done only if that
//! holds; with `?dry_run=true` everything is checked and nothing written. Lists are narrowed by what [`ListQuery`] names, and come
//! in pages if `limit` asks for it (`Weft-Continue` is the next one's `continue`). Parameters that a route does not know are refused.
//!
//! Every refusal has a 4xx or 5xx status and an [`ErrorBody`]. What is to be taken back while no agent runs is left in its
//! [`queue`].

mod attach;
mod client;
pub mod clock;
mod dns;
mod doctor;
mod drains;
mod drops;
mod endpoints;
mod error;
mod events;
mod health;
mod list;
mod namespaces;
mod network;
mod nodes;
mod plan;
mod precondition;
pub mod queue;
mod registrations;
mod schema;
mod services;
mod status;
pub mod store;

pub use attach::{Attach, Attached, Check, Description, Gc, Kept, Release};
pub use client::{Client, ClientError, Credentials, Draining, Events, PlaceError};
pub use dns::{DnsAnswer, DnsRecord, DnsSpeaker, DnsStep, DnsWhy};
pub use doctor::{CheckResult, Checkup, CheckupStart, Finding};
pub use drains::{DrainView, DrainedEndpoint};
pub use drops::{Drops, VerdictView};
pub use endpoints::{EndpointAdd, EndpointSpec, EndpointView};
pub use error::{Code, ErrorBody, ErrorDetail};
pub use events::{Changed, Event, Happened, WatchQuery};
pub use health::{CheckView, HealthView, LastCheck};
pub use list::{ListQuery, Page};
pub use namespaces::{NamespacePut, NamespaceView};
pub use network::{Config, ConfigChange, Network, NetworkChange, NetworkCreate, NetworkInit, ReservationView, Reserve};
pub use nodes::NodeView;
pub use plan::{Plan, PlannedAction, PlannedKind};
pub use precondition::{Precondition, etag};
pub use queue::Queued;
pub use registrations::{Candidacy, LeadBy, LeaderSet, LeaderView, Register, Registered};
pub use services::{BackendView, RejectedView, ServiceCreate, ServiceCreated, ServiceSpec, ServiceView};
pub use status::{BadValueView, DatapathStatus, PeerStatus, Status, StoreStatus, Via, Views};

/// The header that says at which revision of the store an answer stands.
pub const REVISION_HEADER: &str = "weft-revision";

/// The header of a list that goes on: what to give as `continue` for the next page.
pub const CONTINUE_HEADER: &str = "weft-continue";

/// Where the socket is unless `--run-dir`, `--socket` or `WEFT_SOCKET` say otherwise.
pub const DEFAULT_SOCKET: &str = "/run/weft/weft.sock";
