//! What a site adds to an install: overrides over the image, and hooks of its own in the installed system.

use std::collections::BTreeMap;

use systemimager_core::{Action, BytePath, Layout, Phase, Step, Written};

use super::Planner;
use crate::overrides::Layer;
use crate::store::hooks::installed_path;
use crate::store::master::{Hook, HookTime};
use crate::tree::pattern::is_below;

/// Up to so many paths of an override are named each; of more only the directories at the top that they lie in.
const NAMED: usize = 200;

impl Planner<'_> {
    /// Overrides come after the machine has its name, and has lost what clones must not share: what a site lays over is
    /// meant, also where it is a name or a key. They come before the boot loader reads its settings.
    pub(super) fn overrides(&mut self, layout: &Layout) {
        let layers = self.input.overrides;
        let Some(transport) = self.input.master.transports.last().filter(|_| !layers.is_empty()) else { return };
        for mount in layout.preserved_mounts() {
            for layer in layers {
                let hidden = layer.paths.iter().find(|path| **path != mount.at && is_below(path, &mount.at));
                if let Some(path) = hidden {
                    self.problems.push(format!(
                        "the override {} has {path}, below {}, which is preserved and not mounted while a machine is being \
                         installed; take it out of the override",
                        layer.name, mount.at
                    ));
                }
            }
        }
        let names: Vec<_> = layers.iter().map(|layer| layer.name.clone()).collect();
        let shown = names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", then ");
        let action = Action::LayOver {
            overrides: names,
            image: self.input.master.image.to_string(),
            transport: transport.clone(),
        };
        let step = Step::new(Phase::Identity, format!("lay {shown} over the image, by {transport}"), action);
        self.steps.push(Step { by: "engine".into(), ..step.writing(written(layers)) });
    }

    /// Hooks in the installed system come last, and may change anything.
    pub(super) fn hooks(&mut self) {
        let (master, identity) = (self.input.master, self.input.identity);
        for hook in master.hooks_at(HookTime::PostInstall) {
            let action = Action::Hook {
                hook: hook.run.clone(),
                program: installed_path(&hook.run).into(),
                environment: environment(hook, identity.name.as_str(), master.image.as_str()),
                required: hook.is_required(),
            };
            let step = Step::new(Phase::Finish, format!("run the hook {} in the target", hook.run), action);
            self.steps.push(Step { by: "engine".into(), ..step.writing([Written::below("/")]) });
        }
    }
}

/// What a hook is told, as variables of its environment.
pub fn environment(hook: &Hook, host: &str, image: &str) -> BTreeMap<String, String> {
    [("SI_HOOK", hook.at.name()), ("SI_HOST", host), ("SI_IMAGE", image)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

fn written(layers: &[Layer]) -> Vec<Written> {
    let all: Vec<&BytePath> = layers.iter().flat_map(|layer| &layer.paths).collect();
    if all.len() <= NAMED {
        return all.into_iter().map(|path| Written::path(path.clone())).collect();
    }
    let top = |path: &BytePath| {
        let name = path.as_bytes().split(|byte| *byte == b'/').find(|part| !part.is_empty()).unwrap_or_default();
        BytePath::from("/").join(name)
    };
    let tops: std::collections::BTreeSet<BytePath> = all.into_iter().map(top).collect();
    tops.into_iter().map(Written::below).collect()
}
