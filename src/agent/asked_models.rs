//! The models that a run asked, and which of them it may ask again.

/// Why a run leaves a model that its provider does not have any more.
pub const MODEL_GONE: &str = "model_gone";
/// Why it leaves one whose account has no budget left.
pub const QUOTA_EXHAUSTED: &str = "quota_exhausted";
/// Why it leaves one whose context window is too small for the conversation.
pub const CONTEXT_TOO_LONG: &str = "context_too_long";
/// Why it leaves one that asked to come later.
pub const RATE_LIMITED: &str = "rate_limited";

/// Reasons that no waiting mends.
const FOR_GOOD: [&str; 3] = [MODEL_GONE, QUOTA_EXHAUSTED, CONTEXT_TOO_LONG];

/// The models of a run, in the order in which they were first asked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AskedModels {
    pub(super) all: Vec<AskedModel>,
    pub(super) present: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct AskedModel {
    pub(super) name: String,
    pub(super) answers: u32,
    /// Why it was left last.
    pub(super) left_for: Option<String>,
    /// Whether it is not asked again: until the run got further or waited, where a wait mends the reason.
    pub(super) is_out: bool,
}

impl AskedModel {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), answers: 0, left_for: None, is_out: false }
    }

    pub(super) fn is_out_for_good(&self) -> bool {
        self.is_out && self.left_for.as_deref().is_some_and(is_for_good)
    }
}

pub(super) fn is_for_good(reason: &str) -> bool {
    FOR_GOOD.contains(&reason)
}

impl AskedModels {
    pub(super) fn new(name: &str) -> Self {
        Self { all: vec![AskedModel::new(name)], present: 0 }
    }

    pub(super) fn present(&self) -> &AskedModel {
        &self.all[self.present]
    }

    pub(super) fn find(&self, name: &str) -> Option<&AskedModel> {
        self.all.iter().find(|model| model.name == name)
    }

    pub(super) fn answered(&mut self) {
        self.all[self.present].answers += 1;
    }

    /// Whether the run may leave `from` for `to`.
    pub(super) fn may_switch(&self, from: &str, to: &str) -> bool {
        let is_open = self.find(to).is_none_or(|model| !model.is_out_for_good());
        self.present().name == from && from != to && !to.is_empty() && is_open
    }

    pub(super) fn switch(&mut self, to: &str, reason: &str) {
        let left = &mut self.all[self.present];
        (left.left_for, left.is_out) = (Some(reason.to_owned()), true);
        self.present = self.all.iter().position(|model| model.name == to).unwrap_or_else(|| {
            self.all.push(AskedModel::new(to));
            self.all.len() - 1
        });
        self.all[self.present].is_out = false;
    }

    /// What a wait may have mended is tried again.
    pub(super) fn forgive(&mut self) {
        for model in self.all.iter_mut().filter(|model| !model.is_out_for_good()) {
            model.is_out = false;
        }
    }

    /// Everything is tried again.
    pub(super) fn forgive_all(&mut self) {
        self.all.iter_mut().for_each(|model| model.is_out = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_who_opens_a_run_again_gives_every_model_another_chance() {
        let mut models = AskedModels::new("a");
        models.switch("b", QUOTA_EXHAUSTED);
        models.forgive();
        assert!(!models.may_switch("b", "a"));
        models.forgive_all();
        assert!(models.may_switch("b", "a"));
    }
}
