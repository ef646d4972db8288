//! What the rounds of one request say.

/// One round: digests of both sides' answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Round {
    pub(crate) original: u64,
    pub(crate) shadow: u64,
}

/// What the rounds of one request say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// Both sides agree in every round.
    Agree,
    /// The shadow stands alone.
    AgainstShadow,
    /// Each side repeats itself, and not the other: worth asking again, see [`again`].
    Apart,
    /// The original stands alone.
    AgainstOriginal,
    /// Nobody can say who it is.
    Unclear,
}

/// What two rounds say.
///
/// Let the sides be exchanged in the first, the second, or both rounds: four ways to label the same
/// answers, all as likely if the shadow is like the original. If one side repeats itself and the
/// other does not, exchanging a round in which they differ turns "against the shadow" into "against
/// the original" or into something unclear, and the other way round; if both repeat themselves and
/// differ, half of the four ways look like that ([`Said::Apart`]) and half like a cross, in which
/// each side gives what the other gave before. So, for every set of answers, as many ways speak
/// against the shadow (a lone shadow, or apart) as against the original (a lone original, or a
/// cross); `every_labelling_is_fair` walks through all of them.
pub(crate) fn said(first: Round, second: Round) -> Said {
    let original = first.original == second.original;
    let shadow = first.shadow == second.shadow;
    let agree = first.original == first.shadow && second.original == second.shadow;
    let cross = first.original == second.shadow && first.shadow == second.original;
    match (original, shadow) {
        _ if agree => Said::Agree,
        (true, true) => Said::Apart,
        (true, false) => Said::AgainstShadow,
        (false, true) => Said::AgainstOriginal,
        (false, false) if cross => Said::AgainstOriginal,
        (false, false) => Said::Unclear,
    }
}

/// What a further round says when both sides were apart before: the same again speaks against the
/// shadow, the reverse against the original, and each is as likely if they are alike. Anything else
/// says nothing, and ends the asking.
pub(crate) fn again(first: Round, next: Round) -> Said {
    let reverse = Round {
        original: first.shadow,
        shadow: first.original,
    };
    if next == first {
        Said::AgainstShadow
    } else if next == reverse {
        Said::AgainstOriginal
    } else {
        Said::Unclear
    }
}
