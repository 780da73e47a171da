//! A statistic of a channel over one window, as the manifest writes it: `mean(ax)`, `std(norm(ax,ay,az))`.
//!
//! Invariant: `Feature::parse` gives column numbers that exist in the columns it was parsed with. Not here: the arithmetic
//! (`preprocess::window`).

/// No norm is taken over more columns.
const MAX_NORM: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistic {
    Mean,
    /// Population standard deviation.
    Std,
    Min,
    Max,
    Rms,
    /// Maximum minus minimum.
    Ptp,
    /// Mean of the absolute differences of neighbours.
    Mad,
    Last,
    /// Last minus first.
    Delta,
}

impl Statistic {
    const ALL: [(&str, Self); 9] = [
        ("mean", Self::Mean),
        ("std", Self::Std),
        ("min", Self::Min),
        ("max", Self::Max),
        ("rms", Self::Rms),
        ("ptp", Self::Ptp),
        ("mad", Self::Mad),
        ("last", Self::Last),
        ("delta", Self::Delta),
    ];
}

/// What a statistic is taken of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Channel {
    Column(usize),
    /// Euclidean norm of these columns, row by row.
    Norm(Vec<usize>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// As written in the manifest.
    pub name: String,
    pub statistic: Statistic,
    pub channel: Channel,
}

impl Feature {
    /// The error is a sentence for the manifest's author.
    pub fn parse(text: &str, columns: &[&str]) -> Result<Self, String> {
        let (statistic, channel) = call(text).ok_or_else(|| format!("{text:?} is not STATISTIC(CHANNEL)"))?;
        let &(_, statistic) = Statistic::ALL
            .iter()
            .find(|(name, _)| *name == statistic)
            .ok_or_else(|| format!("{statistic:?} is no statistic; there are mean, std, min, max, rms, ptp, mad, last, delta"))?;
        let column = |name: &str| {
            let name = name.trim();
            columns.iter().position(|c| *c == name).ok_or_else(|| format!("{name:?} is not among the columns {columns:?}"))
        };
        let channel = match call(channel) {
            Some(("norm", inner)) => Channel::Norm(inner.split(',').map(column).collect::<Result<_, _>>()?),
            Some((other, _)) => return Err(format!("{other:?} is no channel; there are columns and norm(a,b,…)")),
            None => Channel::Column(column(channel)?),
        };
        match &channel {
            Channel::Norm(inner) if inner.len() > MAX_NORM => Err(format!("a norm of {} columns; {MAX_NORM} are allowed", inner.len())),
            _ => Ok(Self { name: text.to_owned(), statistic, channel }),
        }
    }
}

/// `name(inner)` in its two parts.
fn call(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.trim().split_once('(')?;
    Some((name.trim(), rest.strip_suffix(')')?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_name_a_statistic_and_a_channel() {
        let columns = ["ax", "ay", "t"];
        let feature = Feature::parse("std(norm(ax, ay))", &columns).unwrap();
        assert_eq!((feature.statistic, feature.channel), (Statistic::Std, Channel::Norm(vec![0, 1])));
        let feature = Feature::parse("delta(t)", &columns).unwrap();
        assert_eq!((feature.statistic, feature.channel), (Statistic::Delta, Channel::Column(2)));
        for wrong in ["", "mean", "mean(", "mean()", "mean(bx)", "median(ax)", "mean(sum(ax))", "mean(norm(ax,))", "mean(norm(ax)"] {
            assert!(Feature::parse(wrong, &columns).is_err(), "{wrong}");
        }
    }
}
