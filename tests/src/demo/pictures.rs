//! Deals pictures to the cameras: which ones, in which order, under opaque names; keeps the truth.
//!
//! Invariant: nothing that a device sees tells the class: not the name, not the folder, not the order. Each picture is dealt once to
//! each camera. Not here: what a camera makes of them.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};

/// More are not shown in a run of bounded time.
pub const MOST: usize = 1_200;

/// Pictures in a folder per class, as found.
pub struct Album {
    classes: BTreeMap<String, Vec<PathBuf>>,
}

/// What one camera was dealt: a flat folder, and the class of each name in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hand {
    pub folder: PathBuf,
    pub truth: BTreeMap<String, String>,
}

impl Album {
    /// Reads `DIR/<class>/*.jpg`. At least one class must be among `labels`, the words of the model that will look at them.
    pub fn open(folder: &Path, labels: &[String]) -> anyhow::Result<Self> {
        let mut classes = BTreeMap::new();
        for class in sorted(folder).with_context(|| format!("could not read the pictures' folder {}", folder.display()))? {
            let name = class.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            if !class.is_dir() || name.starts_with('.') {
                continue;
            }
            let pictures: Vec<PathBuf> = sorted(&class)?.into_iter().filter(|path| is_jpeg(path) && path.is_file()).collect();
            if !pictures.is_empty() {
                classes.insert(name, pictures);
            }
        }
        ensure!(!classes.is_empty(), "{} holds no <class>/*.jpg", folder.display());
        ensure!(
            labels.iter().any(|label| classes.contains_key(label)),
            "none of the folders in {} is named after a class of the model: {}",
            folder.display(),
            labels.join(", ")
        );
        Ok(Self { classes })
    }

    /// The pictures of a run: all, or `most` of them drawn by seed, equally many of each class as far as each has them.
    fn drawn(&self, seed: u64, most: usize) -> Vec<(&str, &Path)> {
        let shares = shares(&self.classes.values().map(Vec::len).collect::<Vec<_>>(), most);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut drawn = Vec::new();
        for ((class, pictures), share) in self.classes.iter().zip(shares) {
            let mut order: Vec<&Path> = pictures.iter().map(PathBuf::as_path).collect();
            rng.shuffle(&mut order);
            drawn.extend(order.into_iter().take(share).map(|picture| (class.as_str(), picture)));
        }
        drawn
    }

    /// Fills `folder` for one camera. `camera` makes the order its own.
    pub fn deal(&self, seed: u64, camera: u64, folder: &Path) -> anyhow::Result<Hand> {
        fs::create_dir_all(folder)?;
        let mut drawn = self.drawn(seed, MOST);
        let mut rng = fastrand::Rng::with_seed(seed ^ (camera + 1).rotate_left(32));
        rng.shuffle(&mut drawn);
        let mut truth = BTreeMap::new();
        for (i, (class, picture)) in drawn.into_iter().enumerate() {
            let name = format!("{i:05}-{:08x}.jpg", rng.u32(..));
            let target = folder.join(&name);
            // A hard link to a symbolic link would be one that leads nowhere from here.
            let picture = fs::canonicalize(picture).with_context(|| format!("could not find {}", picture.display()))?;
            // Another file system has no hard link to this one.
            if fs::hard_link(&picture, &target).is_err() {
                fs::copy(&picture, &target).with_context(|| format!("could not copy {}", picture.display()))?;
            }
            truth.insert(name, class.to_owned());
        }
        Ok(Hand { folder: folder.to_path_buf(), truth })
    }
}

/// Splits `most` over classes of these sizes: equally, and what a small class cannot fill goes to the others.
fn shares(sizes: &[usize], most: usize) -> Vec<usize> {
    let mut shares = vec![0; sizes.len()];
    let mut left = most.min(sizes.iter().sum());
    while left > 0 {
        let open: Vec<usize> = (0..sizes.len()).filter(|&i| shares[i] < sizes[i]).collect();
        for (rank, &i) in open.iter().enumerate() {
            // The remainder goes to the first ones, one each.
            let equal = left / (open.len() - rank) + usize::from(!left.is_multiple_of(open.len() - rank));
            let more = equal.min(sizes[i] - shares[i]);
            shares[i] += more;
            left -= more;
        }
    }
    shares
}

fn sorted(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(folder)?.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn is_jpeg(path: &Path) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|e| e.eq_ignore_ascii_case("jpg") || e.eq_ignore_ascii_case("jpeg"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn classes_share_equally_as_far_as_they_can() {
        struct Case(&'static [usize], usize, &'static [usize]);
        for Case(sizes, most, expected) in [
            Case(&[600, 600, 600], 1200, &[400, 400, 400]),
            Case(&[100, 100], 1200, &[100, 100]),
            Case(&[10, 600, 600], 100, &[10, 45, 45]),
            Case(&[5, 5, 5], 10, &[4, 3, 3]),
            Case(&[0, 9], 4, &[0, 4]),
            Case(&[], 4, &[]),
        ] {
            assert_eq!(shares(sizes, most), expected, "{sizes:?} of {most}");
        }
    }

    #[test]
    fn every_picture_is_dealt_once_under_a_name_that_tells_nothing() {
        let folder = std::env::temp_dir().join(format!("wayside-album-{}", std::process::id()));
        for (class, n) in [("bike", 5), ("car", 3)] {
            fs::create_dir_all(folder.join(class)).unwrap();
            for i in 0..n {
                fs::write(folder.join(class).join(format!("{i:04}.jpg")), format!("{class} {i}")).unwrap();
            }
        }
        fs::write(folder.join("car/notes.txt"), "not a picture").unwrap();
        let unknown = Album::open(&folder, &["tram".to_owned()]);
        assert!(unknown.is_err(), "no folder is named after a class of the model");
        let album = Album::open(&folder, &["car".to_owned()]).unwrap();
        let hand = album.deal(42, 0, &folder.join("dealt/0")).unwrap();
        let again = album.deal(42, 0, &folder.join("dealt/1")).unwrap();
        let other = album.deal(42, 1, &folder.join("dealt/2")).unwrap();
        assert_eq!(hand.truth, again.truth, "the seed decides alone");
        assert_ne!(hand.truth, other.truth, "each camera has its own order");
        let contents: BTreeSet<String> = hand.truth.keys().map(|name| fs::read_to_string(hand.folder.join(name)).unwrap()).collect();
        assert_eq!(contents.len(), 8, "no picture twice");
        for (name, class) in &hand.truth {
            assert!(!name.contains(class.as_str()));
            assert!(fs::read_to_string(hand.folder.join(name)).unwrap().starts_with(class.as_str()), "the truth stays true");
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
