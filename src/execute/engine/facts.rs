//! What a server says about itself, asked before anything is measured.

use std::time::Duration;

use reqwest::{Client, StatusCode, Url};
use serde::Serialize;
use serde_json::Value;

use super::{http::describe, openai};

const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// Facts for the manifest. A server may claim a compression in them that it does not compute: this is no proof.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EngineFacts {
    /// Base URL, without user and query.
    pub url: String,
    /// `vllm`, `llamacpp`, ... as `/v1/models` says in `owned_by`.
    pub owned_by: Option<String>,
    /// From `/version`, else from `/props` (llama.cpp). `None` if the server does not tell.
    pub version: Option<String>,
    /// Header `server`.
    pub server: Option<String>,
    /// Ids of `/v1/models`.
    pub models: Vec<String>,
    /// Status of `/health`, `None` if it could not be asked.
    pub health_status: Option<u16>,
    /// `/v1/models` as it came.
    pub models_json: Value,
    /// `/props` (llama.cpp) as it came.
    pub props_json: Option<Value>,
}

/// A URL that may be shown: no user, no password, no query.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Both fail only for URLs without a host, which hold no user either.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.as_str().trim_end_matches('/').to_owned()
}

/// The URL of `path` below `base`.
pub(super) fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    let joined = format!("{}/{path}", base.path().trim_end_matches('/'));
    url.set_path(&joined);
    url
}

/// Asks. `Err` is the text for a row: the server is not there, or it is no OpenAI-compatible server.
pub(super) async fn ask(client: &Client, base: &Url) -> Result<EngineFacts, String> {
    let url = shown(base);
    let models = get(client, base, "v1/models").await.map_err(|error| {
        format!("cannot connect to {url}: {error}\n  hint: start the server, or correct `url` in the scenario")
    })?;
    if models.status != StatusCode::OK {
        let hint = match models.status.as_u16() {
            401 | 403 => "\n  hint: set KVBENCH_API_KEY or `api_key_file`",
            404 => "\n  hint: `url` is the base URL without /v1",
            _ => "",
        };
        return Err(format!(
            "{url}/v1/models: http {}: {}{hint}",
            models.status.as_u16(),
            openai::refusal(&models.body)
        ));
    }
    let models_json: Value = serde_json::from_slice(&models.body).map_err(|_| {
        format!("{url}/v1/models: expected JSON, got {:?}", openai::snippet(&models.body))
    })?;
    let version = get_json(client, base, "version").await;
    let props_json = get_json(client, base, "props").await;
    let health_status = get(client, base, "health").await.ok().map(|answer| answer.status.as_u16());
    let text =
        |value: &Option<Value>, key: &str| Some(value.as_ref()?.get(key)?.as_str()?.to_owned());
    Ok(EngineFacts {
        url,
        owned_by: models_json["data"][0]["owned_by"].as_str().map(str::to_owned),
        version: text(&version, "version").or_else(|| text(&props_json, "build_info")),
        server: models.server,
        models: ids(&models_json),
        health_status,
        models_json,
        props_json,
    })
}

/// Ids of the list, or of the one model that TGI answers with.
pub(super) fn ids(models: &Value) -> Vec<String> {
    let one = std::slice::from_ref(models);
    let list = models["data"].as_array().map_or(one, Vec::as_slice);
    list.iter().filter_map(|model| model["id"].as_str()).map(str::to_owned).collect()
}

impl EngineFacts {
    /// The model to ask for: the one named, else the only one listed.
    pub(super) fn model(&self, named: Option<&str>) -> Result<String, String> {
        match (named, self.models.as_slice()) {
            (Some(name), _) => Ok(name.to_owned()),
            (None, [only]) => Ok(only.clone()),
            (None, []) => Err(format!(
                "{}: expected a model, got an empty list\n  hint: load one into the server (its log says why none is there), or name the one to ask for with `model` in the scenario",
                self.url
            )),
            (None, several) => Err(format!(
                "{}: expected exactly one model, got {} [{}]\n  hint: name one with `model` in the scenario",
                self.url,
                several.len(),
                several.join(", ")
            )),
        }
    }
}

struct Got {
    status: StatusCode,
    server: Option<String>,
    body: Vec<u8>,
}

async fn get(client: &Client, base: &Url, path: &str) -> Result<Got, String> {
    get_at(client, below(base, path)).await
}

async fn get_at(client: &Client, url: Url) -> Result<Got, String> {
    let response = client.get(url).timeout(ASK_TIMEOUT).send().await.map_err(describe)?;
    let status = response.status();
    let server =
        response.headers().get("server").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = response.bytes().await.map_err(describe)?.to_vec();
    Ok(Got { status, server, body })
}

/// Engines lack some of these paths; whatever is not JSON with status 200 is unknown.
async fn get_json(client: &Client, base: &Url, path: &str) -> Option<Value> {
    let got = get(client, base, path).await.ok()?;
    (got.status == StatusCode::OK).then(|| serde_json::from_slice(&got.body).ok())?
}

/// The body of an answer with status 200.
pub(super) async fn get_text(client: &Client, base: &Url, path: &str) -> Option<String> {
    get_text_at(client, &below(base, path.trim_start_matches('/'))).await
}

/// The same at a URL.
pub(super) async fn get_text_at(client: &Client, url: &Url) -> Option<String> {
    let got = get_at(client, url.clone()).await.ok()?;
    (got.status == StatusCode::OK).then(|| String::from_utf8_lossy(&got.body).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_secrets() {
        let url = Url::parse("http://me:pw@host:1/base/?key=1").unwrap();
        assert_eq!(shown(&url), "http://host:1/base");
        assert_eq!(below(&url, "v1/models").path(), "/base/v1/models");
        assert_eq!(below(&Url::parse("http://h").unwrap(), "v1/x").as_str(), "http://h/v1/x");
    }

    #[test]
    fn the_only_model_is_taken() {
        let mut facts = EngineFacts {
            url: "http://h".to_owned(),
            owned_by: None,
            version: None,
            server: None,
            models: ids(&serde_json::json!({"data": [{"id": "a"}]})),
            health_status: None,
            models_json: Value::Null,
            props_json: None,
        };
        assert_eq!(facts.model(None), Ok("a".to_owned()));
        assert_eq!(facts.model(Some("b")), Ok("b".to_owned()));
        facts.models.clear();
        let error = facts.model(None).unwrap_err();
        assert!(error.contains("got an empty list\n  hint: load one into the server"), "{error}");
        facts.models = ["a", "c"].map(str::to_owned).to_vec();
        assert!(facts.model(None).unwrap_err().contains("got 2 [a, c]\n  hint:"));
    }
}
