//! The API as a client sees it: a server that listens, and HTTP.

use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use axum::Router;
use serde_json::{Value, json};
use tokio::{runtime::Runtime, sync::watch};
use ureq::Agent;
use wayside_common::{id::Digest, record::Body, sketch::histogram::ReferenceFeature, time::Wall};

use super::{Config, Shared, Token, bind, router, serve};
use crate::{
    db::{
        Db,
        telemetry::{Arrival, Receipt},
    },
    drift::References,
    events::{Event, Events},
    fixture::{self, store::Place},
    scratch::Scratch,
};

const TOKEN: &str = "a-token-for-a-test";

/// One package has a reference: the shape that fixture sketches have.
struct Reference;

#[async_trait]
impl References for Reference {
    async fn reference(&self, model: Digest) -> anyhow::Result<Option<Vec<ReferenceFeature>>> {
        let feature = ReferenceFeature {
            name: "image.brightness".into(),
            edges: (0..31).map(f64::from).collect(),
            counts: (0..32).map(|n| n * 9).collect(),
        };
        Ok((model == fixture::model(1)).then(|| vec![feature]))
    }
}

struct Bench {
    _scratch: Scratch,
    _place: Place,
    runtime: Runtime,
    db: Arc<dyn Db>,
    events: Events,
    address: SocketAddr,
    agent: Agent,
    _stop: watch::Sender<bool>,
}

impl Bench {
    /// One on each engine.
    fn each() -> Vec<Self> {
        Place::each().into_iter().map(Self::on).collect()
    }

    fn on(place: Place) -> Self {
        let scratch = Scratch::new();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let db = runtime.block_on(place.open());
        let token = Token::open(&scratch.path().join("token"), Some(TOKEN)).expect("a token");
        let events = Events::default();
        let shared = Shared { db: db.clone(), references: Arc::new(Reference), events: events.clone() };
        let (stop, stopped) = watch::channel(false);
        let config = Config { listen: ([127, 0, 0, 1], 0).into() };
        let address = runtime.block_on(async {
            let listener = bind(&config).await.expect("a free port");
            let address = listener.local_addr().expect("bound");
            tokio::spawn(serve(listener, router(shared, token, Router::new()), stopped));
            address
        });
        let agent = Agent::config_builder().http_status_as_error(false).max_redirects(0).build().into();
        Self { _scratch: scratch, _place: place, runtime, db, events, address, agent, _stop: stop }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn try_get(&self, path: &str) -> (u16, Value) {
        let mut response = self.agent.get(self.url(path)).header("authorization", format!("Bearer {TOKEN}")).call().expect("an answer");
        (response.status().as_u16(), response.body_mut().read_json().unwrap_or_default())
    }

    fn get(&self, path: &str) -> Value {
        let (status, body) = self.try_get(path);
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    fn store(&self, stream: &str, first_seq: u64, body: Body) {
        let batch = fixture::batch(stream, first_seq, body);
        let arrival = Arrival { device: fixture::device("cam-1"), batch, received: Wall(fixture::START) };
        let receipts = self.runtime.block_on(self.db.commit(vec![arrival])).expect("committed");
        assert!(matches!(receipts[0], Receipt::Stored { .. }));
    }

    fn hello(&self) {
        let hello = fixture::hello();
        self.runtime.block_on(self.db.hello(&fixture::device("cam-1"), &hello, Wall(fixture::START))).expect("stored");
    }
}

#[test]
fn without_the_token_nothing_is_told_but_that_the_server_lives() {
    for bench in Bench::each() {
        let status = |path: &str, header: Option<&str>| {
            let request = bench.agent.get(bench.url(path));
            let request = if let Some(value) = header { request.header("authorization", value) } else { request };
            request.call().expect("an answer").status().as_u16()
        };
        for path in ["/v1/devices", "/v1/events", "/", "/nothing", "/v1/devices?token=a-token-for-a-test"] {
            assert_eq!(status(path, None), 401, "{path}");
        }
        assert_eq!(status("/v1/devices", Some("Bearer a-token-for-a-tesT")), 401);
        assert_eq!(status("/v1/devices", Some(TOKEN)), 401);
        assert_eq!(status("/healthz", None), 200);
        assert_eq!(status("/v1/devices", Some("Bearer a-token-for-a-test")), 200);
    }
}

#[test]
fn a_browser_trades_the_token_in_its_first_address_for_a_cookie() {
    for bench in Bench::each() {
        let response = bench.agent.get(bench.url(&format!("/?token={TOKEN}"))).call().expect("an answer");
        assert_eq!((response.status().as_u16(), response.headers()["location"].to_str().expect("text")), (303, "/"));
        let cookie = response.headers()["set-cookie"].to_str().expect("text");
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
        let (name, value) = cookie.split(';').next().and_then(|pair| pair.split_once('=')).expect("a pair");
        assert_eq!(value, Digest::of(format!("wayside cookie{TOKEN}").as_bytes()).to_string());
        struct Case {
            header: (&'static str, String),
            get: u16,
            put: u16,
        }
        let cases = [
            Case { header: ("cookie", format!("a=b; {name}={value}")), get: 200, put: 401 },
            Case { header: ("cookie", format!("{name}={TOKEN}")), get: 401, put: 401 },
            Case { header: ("authorization", format!("Bearer {value}")), get: 401, put: 401 },
            Case { header: ("authorization", format!("Bearer {TOKEN}")), get: 200, put: 404 },
        ];
        for Case { header: (name, value), get, put } in cases {
            let got = bench.agent.get(bench.url("/v1/devices")).header(name, &value).call().expect("an answer").status();
            let write = bench.agent.put(bench.url("/v1/samples/none/label")).header(name, &value);
            let written = write.send_json(json!({"label": "car"})).expect("an answer").status();
            assert_eq!((got.as_u16(), written.as_u16()), (get, put), "{name}: {value}");
        }
    }
}

#[test]
fn every_error_is_a_problem_document() {
    for bench in Bench::each() {
        struct Case {
            path: &'static str,
            status: u16,
        }
        let cases = [
            Case { path: "/v1/devices/cam-9", status: 404 },
            Case { path: "/v1/devices/cam-9/streams", status: 404 },
            Case { path: "/v1/devices/..%2f..", status: 400 },
            Case { path: "/v1/devices/a%20b", status: 400 },
            Case { path: "/v1/samples?limit=x", status: 400 },
            Case { path: "/v1/samples?limitt=1", status: 400 },
            Case { path: "/v1/samples/none/image", status: 404 },
            Case { path: "/v2", status: 404 },
        ];
        for case in cases {
            let request = bench.agent.get(bench.url(case.path)).header("authorization", format!("Bearer {TOKEN}"));
            let mut response = request.call().expect("an answer");
            assert_eq!(response.status().as_u16(), case.status, "{}", case.path);
            assert_eq!(response.headers()["content-type"], "application/problem+json", "{}", case.path);
            let document: Value = response.body_mut().read_json().expect("JSON");
            assert_eq!(document["status"], case.status, "{}", case.path);
            assert!(document["detail"].as_str().is_some_and(|text| !text.is_empty()), "{}", case.path);
        }
    }
}

#[test]
fn a_device_shows_with_what_it_said() {
    for bench in Bench::each() {
        assert_eq!(bench.get("/v1/devices"), json!([]));
        bench.hello();
        let devices = bench.get("/v1/devices");
        assert_eq!(devices[0]["id"], "cam-1");
        assert_eq!(devices[0]["slots"][0]["active"]["name"], "vehicles-sim");
        assert_eq!(devices[0]["slots"][0]["active"]["digest"], fixture::model(1).to_string());
        for (key, value) in [("online", json!(true)), ("generation", json!(2)), ("storage_fault", json!(false)), ("redelivered", json!(0))]
        {
            assert_eq!(devices[0][key], value, "{key}");
        }
        assert_eq!(bench.get("/v1/devices/cam-1"), devices[0]);
    }
}

#[test]
fn stored_positions_gaps_frames_and_readings_have_their_documented_shape() {
    for bench in Bench::each() {
        bench.store("imu0.readings", 0, fixture::readings(100..200));
        bench.store("cam0.frames", 0, fixture::frames(0..5));
        bench.store("imu0.predictions", 0, fixture::predictions(0..3));

        let streams = bench.get("/v1/devices/cam-1/streams");
        assert_eq!(streams.as_array().map(Vec::len), Some(3));
        let readings = streams.as_array().and_then(|s| s.iter().find(|s| s["stream"] == "imu0.readings")).expect("the stream");
        assert_eq!(
            (&readings["positions"], &readings["duplicate_positions"], &readings["watermark"]),
            (&json!([[100, 199]]), &json!(0), &json!(100))
        );
        assert_eq!(bench.get("/v1/devices/cam-1/gaps"), json!([]));

        let frames = bench.get("/v1/devices/cam-1/frames?limit=2");
        assert_eq!((frames["frames"].as_array().map(Vec::len), &frames["next"]), (Some(2), &json!(1)));
        assert_eq!(
            (&frames["frames"][0]["label"], &frames["frames"][0]["none"], &frames["frames"][0]["item"]),
            (&json!("car"), &Value::Null, &json!("p0.jpg"))
        );
        let rest = bench.get("/v1/devices/cam-1/frames?limit=10&after_position=1");
        assert_eq!((rest["frames"].as_array().map(Vec::len), &rest["next"]), (Some(3), &Value::Null));
        assert_eq!((&rest["frames"][0]["label"], &rest["frames"][0]["none"]), (&Value::Null, &json!("worker_crash")));

        let predictions = bench.get("/v1/devices/cam-1/predictions");
        assert_eq!((&predictions["predictions"][2]["from"], &predictions["predictions"][2]["to"]), (&json!(190), &json!(379)));

        let page = bench.get("/v1/devices/cam-1/readings?source=imu0&limit=60");
        assert_eq!((page["rows"].as_array().map(Vec::len), &page["complete"]), (Some(60), &json!(false)));
        let next = page["next_ms"].as_i64().expect("where to go on");
        let page = bench.get(&format!("/v1/devices/cam-1/readings?source=imu0&limit=60&from={next}"));
        assert_eq!((&page["rows"][0]["position"], &page["complete"]), (&json!(160), &json!(true)));
        assert_eq!(page["rows"][1], json!({"position": 161, "wall_ms": fixture::START + 1610, "values": [161, null]}));
        assert_eq!(page["columns"][0], json!({"name": "ax", "unit": "m/s2", "offset": 1.0, "lsb": 0.5}));

        let latest = bench.get("/v1/devices/cam-1/latest");
        assert_eq!(latest["readings"][0]["values"][0], json!({"name": "ax", "unit": "m/s2", "value": 1.0 + 0.5 * 199.0}));
        assert_eq!((&latest["frames"][0]["position"], &latest["predictions"][0]["to"]), (&json!(4), &json!(379)));
    }
}

#[test]
fn drift_is_judged_for_the_active_model_alone() {
    for bench in Bench::each() {
        bench.store("cam0.sketches", 0, fixture::sketches(0..4));
        assert_eq!(bench.get("/v1/devices/cam-1/drift"), json!([]), "no model is known to be active");
        bench.hello();
        let drift = bench.get("/v1/devices/cam-1/drift");
        assert_eq!((drift.as_array().map(Vec::len), &drift[0]["feature"]), (Some(1), &json!("image.brightness")));
        assert_eq!(
            (&drift[0]["verdict"], &drift[0]["n_current"], &drift[0]["n_reference"]),
            (&json!("no_shift"), &json!(4 * 496), &json!(9 * 496))
        );
        assert!(drift[0]["chi_square"]["p_value"].as_f64().is_some_and(|p| p > 0.5), "{drift}");
    }
}

#[test]
fn a_sample_is_listed_shown_and_labelled() {
    for bench in Bench::each() {
        bench.store("cam0.samples", 0, fixture::samples(0..3));
        let samples = bench.get("/v1/samples?labelled=false");
        assert_eq!(samples.as_array().map(Vec::len), Some(3));
        let id = samples[0]["id"].as_str().expect("an id").to_owned();
        let put = |id: &str, body: Value| {
            let request = bench.agent.put(bench.url(&format!("/v1/samples/{id}/label"))).header("authorization", format!("Bearer {TOKEN}"));
            request.send_json(body).expect("an answer").status().as_u16()
        };
        assert_eq!(put(&id, json!({"label": "truck"})), 204);
        assert_eq!(put(&id, json!({"label": "car"})), 204);
        assert_eq!(put("none", json!({"label": "car"})), 404);
        assert_eq!(put(&id, json!({"label": ""})), 400);
        assert_eq!(put(&id, json!({"label": "x".repeat(100_000)})), 413);
        let labelled = bench.get("/v1/samples?labelled=true");
        assert_eq!(
            (labelled.as_array().map(Vec::len), &labelled[0]["label"], &labelled[0]["labelled_by"]),
            (Some(1), &json!("car"), &json!("operator"))
        );
        let request = bench.agent.get(bench.url(&format!("/v1/samples/{id}/image"))).header("authorization", format!("Bearer {TOKEN}"));
        let mut response = request.call().expect("an answer");
        assert_eq!(response.headers()["content-type"], "image/jpeg");
        assert!(response.body_mut().read_to_vec().expect("bytes").starts_with(&[0xff, 0xd8]));
    }
}

#[test]
fn events_come_as_they_happen() {
    use std::io::{BufRead, BufReader};
    for bench in Bench::each() {
        let request = bench.agent.get(bench.url("/v1/events")).header("authorization", format!("Bearer {TOKEN}"));
        let response = request.call().expect("an answer");
        bench.events.publish(Event::Device { device: fixture::device("cam-1"), online: true });
        let lines = BufReader::new(response.into_body().into_reader()).lines();
        let line = lines.map(|line| line.expect("a line")).find(|line| line.starts_with("data:")).expect("an event");
        let event: Value = serde_json::from_str(line.trim_start_matches("data:")).expect("JSON");
        assert_eq!(event, json!({"type": "device", "device": "cam-1", "online": true}));
    }
}

#[test]
fn the_token_is_kept_and_a_given_one_wins() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let file = scratch.path().join("token");
    let first = Token::open(&file, None).expect("a new token");
    assert_eq!(Token::open(&file, None).expect("the same").reveal(), first.reveal());
    assert_eq!(std::fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    assert_eq!(Token::open(&file, Some("another-token")).expect("given").reveal(), "another-token");
    assert_eq!(Token::open(&file, None).expect("kept").reveal(), "another-token");
    assert!(Token::open(&file, Some("short")).is_err());
    assert!(Token::open(&file, Some("with space; Path=/")).is_err());
}

#[test]
fn every_route_is_in_the_reference() {
    let reference = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/api.md")).expect("the reference");
    let routes = [include_str!("../api.rs"), include_str!("control.rs")]
        .into_iter()
        .flat_map(|source| source.split(".route(\"").skip(1))
        .filter_map(|rest| rest.split('"').next());
    let missing: Vec<&str> = routes.filter(|route| !reference.contains(&format!("{route}`"))).collect();
    assert_eq!(missing, Vec::<&str>::new());
}
