//! Many figures in three: the median and the bounds of the middle half.

/// Median and quartiles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quartiles {
    /// A quarter lies below.
    pub low: f64,
    /// Half lies below.
    pub median: f64,
    /// A quarter lies above.
    pub high: f64,
}

impl Quartiles {
    /// Of these samples; `None` if there are none.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self { low: at(&sorted, 0.25)?, median: at(&sorted, 0.5)?, high: at(&sorted, 0.75)? })
    }
}

/// The value below which `part` of the sorted samples lies, between two of them if need be.
fn at(sorted: &[f64], part: f64) -> Option<f64> {
    let place = part * (sorted.len().checked_sub(1)? as f64);
    let (below, above) = (sorted.get(place.floor() as usize)?, sorted.get(place.ceil() as usize)?);
    Some(below + (above - below) * place.fract())
}

/// The median; `None` if there are no samples.
pub fn median(samples: &[f64]) -> Option<f64> {
    Quartiles::of(samples).map(|q| q.median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_samples_lie_in_the_middle_half() {
        let all: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert_eq!(Quartiles::of(&all), Some(Quartiles { low: 25.0, median: 50.0, high: 75.0 }));
    }

    #[test]
    fn one_sample_is_all_three_and_none_is_none() {
        assert_eq!(Quartiles::of(&[3.0]), Some(Quartiles { low: 3.0, median: 3.0, high: 3.0 }));
        assert_eq!(Quartiles::of(&[]), None);
    }

    #[test]
    fn an_outlier_does_not_move_the_median() {
        assert_eq!(median(&[2.0, 2.0, 2.0, 1e9]), Some(2.0));
    }
}
