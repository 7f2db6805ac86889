//! Masks on a thread of their own, while the model computes the step that needs them.

use compute::sampler::{Mask, PendingMask};
use models::grammar::{Grammar, Pace, STACK_BYTES, Walk};
use parking_lot::Mutex;
use prometheus::{Histogram, IntCounter};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Instant;

/// The thread. It ends with the last handle, and what was asked for before is done.
#[derive(Debug, Clone)]
pub(super) struct Masks {
    // Unbounded in type; each running sequence waits for one mask at most.
    jobs: Sender<Job>,
}

/// A job for the thread.
pub(super) enum Job {
    Mask(Asked),
    Other(Box<dyn FnOnce() + Send>),
}

/// A mask that was asked for.
pub(super) struct Asked {
    at: Arc<Mutex<At>>,
    previous: Option<u32>,
    now: Now,
    mask: PendingMask,
}

/// A place within a grammar.
#[derive(Debug)]
struct Within {
    walk: Walk,
    pace: Pace,
    /// Its tokens were narrowed, so that the end stays in reach.
    is_hurried: bool,
}

/// Measures of masks.
#[derive(Debug, Clone)]
pub(super) struct Meters {
    pub(super) seconds: Histogram,
    pub(super) hurried: IntCounter,
}

/// A place in a grammar.
#[derive(Debug)]
enum At {
    /// No memory is taken for a sequence that has not begun.
    Beginning(Arc<Grammar>),
    Within(Box<Within>),
}

/// The rules for one token.
#[derive(Debug, Default)]
pub(super) struct Now {
    pub(super) allowed: Option<Arc<Mask>>,
    pub(super) forbidden: Vec<u32>,
    /// Nothing but this may come.
    pub(super) only: Option<u32>,
    /// Tokens that may still come, this one included.
    pub(super) left: usize,
}

impl Now {
    /// A mask without what may not come now.
    pub(super) fn applied(&self, mut mask: Mask) -> Result<Mask, String> {
        if let Some(allowed) = &self.allowed {
            mask.narrow(allowed);
        }
        if let Some(only) = self.only {
            let may = mask.allows(only);
            mask = Mask::from_words(&[]);
            if may {
                mask = Mask::one(only);
            }
        }
        self.forbidden.iter().for_each(|&token| mask.forbid(token));
        if mask.is_empty() {
            return Err(
                "no token is left that the form, the allowed tokens and the words that may not come allow".into()
            );
        }
        Ok(mask)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        // A step waits for it, whatever became of the thread.
        self.mask.settle(Err("computing what a form allows failed".into()));
    }
}

impl Masks {
    pub(super) fn start(model: &str, meters: Meters) -> std::io::Result<Self> {
        let (jobs, inbox) = mpsc::channel();
        let thread = std::thread::Builder::new().name(format!("masks-{model}")).stack_size(STACK_BYTES);
        thread.spawn(move || work(&inbox, &meters))?;
        Ok(Self { jobs })
    }

    /// Has a job done after those before it.
    pub(super) fn send(&self, job: Job) {
        // A thread that has ended lets go of the job, which settles its mask.
        _ = self.jobs.send(job);
    }

    /// One sequence's way along a grammar.
    pub(super) fn along(&self, grammar: Arc<Grammar>) -> Along {
        Along { at: Arc::new(Mutex::new(At::Beginning(grammar))), masks: self.clone() }
    }
}

fn work(inbox: &Receiver<Job>, meters: &Meters) {
    while let Ok(job) = inbox.recv() {
        let begun = Instant::now();
        // One that fails is its sequence's loss alone.
        _ = catch_unwind(AssertUnwindSafe(|| match job {
            Job::Mask(asked) => {
                asked.mask.settle(asked.at.lock().next(asked.previous, &asked.now, meters));
                meters.seconds.observe(begun.elapsed().as_secs_f64());
            }
            Job::Other(work) => work(),
        }));
    }
}

impl At {
    fn next(&mut self, previous: Option<u32>, now: &Now, meters: &Meters) -> Result<Mask, String> {
        if let Self::Beginning(grammar) = self {
            *self = Self::Within(Box::new(Within { walk: grammar.walk(), pace: Pace::default(), is_hurried: false }));
        }
        let Self::Within(within) = self else { return Err("the form was not begun".into()) };
        let Within { walk, pace, is_hurried } = &mut **within;
        let words = walk.next(previous)?;
        if let Some(narrowed) = pace.narrowed(walk, previous, now.left, &words)
            // The request's own rules may forbid what is left of it.
            && let Ok(mask) = now.applied(Mask::from_words(&narrowed))
        {
            meters.hurried.inc_by(u64::from(!std::mem::replace(is_hurried, true)));
            return Ok(mask);
        }
        now.applied(Mask::from_words(&words))
    }
}

/// One sequence's way along a grammar.
#[derive(Debug)]
pub(super) struct Along {
    at: Arc<Mutex<At>>,
    masks: Masks,
}

impl Along {
    /// Has the mask computed that follows `previous`, and what else is so `now` applied to it.
    pub(super) fn next(&self, previous: Option<u32>, now: Now) -> PendingMask {
        let mask = PendingMask::default();
        self.masks.send(Job::Mask(Asked { at: Arc::clone(&self.at), previous, now, mask: mask.clone() }));
        mask
    }
}
