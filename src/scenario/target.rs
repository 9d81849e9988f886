//! Targets and the references in them.

use super::{
    Engine, KernelTarget, ModelShape, PAGES, TargetKind, engine_target,
    error::{Fault, nearest},
    preset,
    value::{Ordered, Sp},
    wire,
};
use crate::kernel::allreduce::Link;

/// Longest URL or model name.
const TEXT_MAX: usize = 2048;

/// One entry of `[model]`.
pub(super) fn model(name: &Sp<String>, wire: &wire::Model) -> Result<ModelShape, Fault> {
    if preset::find(&name.value).is_some() {
        let message = format!("expected another name than the preset `{}`", name.value);
        return Err(Fault::new(
            name.at,
            message,
            "a changed shape under a known name would mislead",
        ));
    }
    let (heads, kv_heads) = (wire.num_heads.usize(), wire.num_kv_heads.value.usize());
    if !heads.is_multiple_of(kv_heads) {
        return Err(Fault::new(
            wire.num_kv_heads.at,
            format!("expected `num_kv_heads` to divide `num_heads` ({heads}), got {kv_heads}"),
            "each kv head serves the same number of query heads",
        ));
    }
    let head_dim = wire.head_dim.value.usize();
    if !head_dim.is_multiple_of(32) {
        return Err(Fault::new(
            wire.head_dim.at,
            format!("expected `head_dim` to be a multiple of 32, got {head_dim}"),
            "our kernels cover 64, 96, 128 and 256, the usual sizes",
        ));
    }
    Ok(ModelShape {
        name: name.value.clone(),
        num_layers: wire.num_layers.usize(),
        num_heads: heads,
        num_kv_heads: kv_heads,
        head_dim,
    })
}

/// A method's name must stand in `[method]`.
pub(super) fn known_method(
    name: &Sp<String>,
    methods: &Ordered<wire::Method>,
    key: &str,
) -> Result<(), Fault> {
    let names = || methods.0.iter().map(|(known, _)| known.value.as_str());
    if names().any(|known| known == name.value) {
        return Ok(());
    }
    Err(unknown(name, &format!("`{key}` to name a table in [method]"), names()))
}

pub(super) fn unknown<'a>(
    name: &Sp<String>,
    wanted: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Fault {
    let hint = match nearest(&name.value, known.clone()) {
        Some(close) => format!("did you mean `{close}`?"),
        None => format!("there are {}", listed(known)),
    };
    let got: String = name.value.chars().take(64).flat_map(char::escape_debug).collect();
    Fault::new(name.at, format!("expected {wanted}, got `{got}`"), hint)
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// What names in a target may refer to.
pub(super) struct Resolve<'a> {
    pub(super) models: &'a [ModelShape],
    pub(super) engines: &'a [Engine],
    pub(super) methods: &'a Ordered<wire::Method>,
    pub(super) baseline: &'a str,
    /// Whether the scenario asks for an A/A control; `None` where it does not say.
    pub(super) aa_control: Option<bool>,
}

impl Resolve<'_> {
    /// One entry of `[target]`.
    pub(super) fn target(
        &self,
        name: &Sp<String>,
        wire: &wire::Target,
    ) -> Result<TargetKind, Fault> {
        match wire {
            wire::Target::Kernel(wire) => self.kernel(wire).map(TargetKind::Kernel),
            wire::Target::Engine(wire) => engine_target::resolve(self, name, wire)
                .map(|target| TargetKind::Engine(Box::new(target))),
        }
    }

    fn kernel(&self, wire: &wire::KernelTarget) -> Result<KernelTarget, Fault> {
        let model = self.model(&wire.model)?;
        let degrees = wire.tensor_parallel.0.iter();
        Ok(KernelTarget {
            tensor_parallel: degrees
                .map(|degree| ranks(&model, degree.value.usize(), degree.at))
                .collect::<Result<_, _>>()?,
            model,
            device: wire.device,
            threads: wire.threads.map(|threads| threads.usize()),
            page: page(wire.page.value.usize(), wire.page.at)?,
            link: wire.link.as_ref().map(|link| Link {
                bandwidth_gb_s: link.bandwidth_gb_s.0,
                latency_us: link.latency_us.0,
            }),
            methods: self.kernel_methods(wire)?,
        })
    }

    fn model(&self, name: &Sp<String>) -> Result<ModelShape, Fault> {
        let own = self.models.iter().find(|model| model.name == name.value).cloned();
        own.or_else(|| preset::find(&name.value)).ok_or_else(|| {
            let own = self.models.iter().map(|model| model.name.as_str());
            let known: Vec<&str> = preset::names().into_iter().chain(own).collect();
            let known = known.iter().copied();
            unknown(name, "`model` to be a preset or a table in [model]", known)
        })
    }

    fn kernel_method(&self, name: &Sp<String>) -> Result<(), Fault> {
        let found = self.methods.0.iter().find(|(known, _)| known.value == name.value);
        match found {
            Some((_, wire)) if !is_ours(wire) => Err(Fault::new(
                name.at,
                format!(
                    "expected a method that our kernels have, got the engine's `{}`",
                    name.value
                ),
                "name it in the `methods` of an engine target",
            )),
            _ => Ok(()),
        }
    }

    fn kernel_methods(&self, wire: &wire::KernelTarget) -> Result<Vec<String>, Fault> {
        let Some(list) = &wire.methods else {
            let ours = self.methods.0.iter().filter(|(_, wire)| is_ours(wire));
            let ours: Vec<String> = ours.map(|(name, _)| name.value.clone()).collect();
            if !ours.iter().any(|name| name == self.baseline) {
                return Err(Fault::new(
                    wire.model.at,
                    format!(
                        "expected a baseline that our kernels have, got the engine's `{}`",
                        self.baseline
                    ),
                    "measure kernels in a scenario of their own, with `fp16` as its baseline",
                ));
            }
            return Ok(ours);
        };
        for name in &list.0 {
            known_method(name, self.methods, "methods")?;
            self.kernel_method(name)?;
        }
        if !list.0.iter().any(|name| name.value == self.baseline) {
            let at = list.0.first().map_or(0, |name| name.at);
            let message = format!("expected `methods` to hold the baseline `{}`", self.baseline);
            return Err(Fault::new(
                at,
                message,
                "every speed-up is a ratio to the baseline in the same block",
            ));
        }
        Ok(list.0.iter().map(|name| name.value.clone()).collect())
    }
}

fn is_ours(method: &wire::Method) -> bool {
    !matches!(method, wire::Method::Engine(_))
}

/// A degree that deals out the heads evenly.
fn ranks(model: &ModelShape, ranks: usize, at: usize) -> Result<usize, Fault> {
    if model.splits(ranks) {
        return Ok(ranks);
    }
    let fitting = (1..=model.num_heads).filter(|ranks| model.splits(*ranks));
    let fitting: Vec<_> = fitting.map(|ranks| ranks.to_string()).collect();
    let message = format!(
        "expected `tensor_parallel` to deal out the {} query and {} KV heads of `{}` evenly, got {ranks}",
        model.num_heads, model.num_kv_heads, model.name
    );
    Err(Fault::new(at, message, format!("{} do", fitting.join(", "))))
}

fn page(page: usize, at: usize) -> Result<usize, Fault> {
    if PAGES.contains(&page) {
        return Ok(page);
    }
    let hint = "our paged kernels are built for 16 (vLLM's block size on CUDA) and 64";
    Err(Fault::new(at, format!("expected `page` to be 16 or 64, got {page}"), hint))
}

pub(super) fn model_name(name: &Sp<String>) -> Result<String, Fault> {
    if name.value.trim().is_empty() || name.value.len() > TEXT_MAX {
        let message = format!("expected `model` to be a name of 1 to {TEXT_MAX} bytes");
        return Err(Fault::new(
            name.at,
            message,
            "leave the key out to take the server's only model",
        ));
    }
    Ok(name.value.clone())
}

/// Cheap checks of a URL, so that a slip is found before a run; the client parses it in full.
pub(super) fn url(url: &Sp<String>) -> Result<String, Fault> {
    let fault = |wanted: &str, hint: &str| {
        Err(Fault::new(url.at, format!("expected `url` {wanted}"), hint))
    };
    let text = url.value.trim_end_matches('/');
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let named = |rest: &&str| {
        !rest.is_empty()
            && !rest.starts_with('/')
            && (!rest.starts_with(':') || rest.starts_with("::"))
    };
    let Some(rest) = rest.filter(named) else {
        return fault(
            "to start with `http://` or `https://` and a host",
            "for example `url = \"http://127.0.0.1:8000\"`",
        );
    };
    if text.len() > TEXT_MAX || rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return fault(
            "without blanks and at most 2048 bytes long",
            "quote it as the server prints it",
        );
    }
    let host = rest.split('/').next().unwrap_or(rest);
    if !host.starts_with('[') && host.matches(':').count() > 1 && !host.contains('@') {
        return fault(
            "to have an IPv6 address in brackets",
            "for example `url = \"http://[::1]:8000\"`",
        );
    }
    let good = |rest: &str| {
        rest.split_once(']')
            .is_some_and(|(address, _)| address.parse::<std::net::Ipv6Addr>().is_ok())
    };
    if host.strip_prefix('[').is_some_and(|rest| !good(rest)) {
        return fault(
            "to have an IPv6 address between `[` and `]`",
            "for example `url = \"http://[::1]:8000\"`",
        );
    }
    if host.contains('@') {
        return fault(
            "without a user and password: they would be stored with the results",
            "put the key into the environment's KVBENCH_API_KEY or into `api_key_file`",
        );
    }
    if rest.contains(['?', '#']) || text.ends_with("/v1") {
        return fault(
            "to be the base, without `/v1`, `?` or `#`",
            "`/v1/...` is added for each call",
        );
    }
    Ok(text.to_owned())
}
