//! All of a root file system, one thing after another.

use super::{Entry, Result, View};

/// One step of a [`ViewWalk`].
#[derive(Debug)]
pub enum ViewEvent {
    /// A directory begins.
    Enter(Entry),
    /// Anything else.
    Leaf(Entry),
    /// The directory that began last, and has not ended, ends.
    Leave,
}

/// Walks a [`View`] in the order of its names, depth first. The root itself is no event.
///
/// It recurses nowhere, and holds open the directories on the way to where it is.
#[derive(Debug)]
pub struct ViewWalk<'a> {
    view: &'a View,
    /// What is left of each directory on the way, from the root down.
    levels: Vec<std::vec::IntoIter<Entry>>,
}

impl<'a> ViewWalk<'a> {
    /// Begins at the root.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(view: &'a View) -> Result<Self> {
        let levels = vec![view.read_dir(&view.root())?.into_iter()];
        Ok(Self { view, levels })
    }

    /// Begins below a directory of the view.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn below(view: &'a View, dir: &Entry) -> Result<Self> {
        Ok(Self { view, levels: vec![view.read_dir(dir)?.into_iter()] })
    }

    /// Leaves out what is in the directory that began last; it does not end, either.
    pub fn skip(&mut self) {
        self.levels.pop();
    }

    /// Goes on; `None` at the end.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn advance(&mut self) -> Result<Option<ViewEvent>> {
        let Some(level) = self.levels.last_mut() else { return Ok(None) };
        let Some(entry) = level.next() else {
            self.levels.pop();
            return Ok((!self.levels.is_empty()).then_some(ViewEvent::Leave));
        };
        if !entry.is_dir() {
            return Ok(Some(ViewEvent::Leaf(entry)));
        }
        self.levels.push(self.view.read_dir(&entry)?.into_iter());
        Ok(Some(ViewEvent::Enter(entry)))
    }
}
