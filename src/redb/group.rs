//! Group commit: one of the callers that wait does the work of all, and tells each what came of it.
//!
//! It knows nothing of files. Whoever comes while nobody leads is the *leader*: it takes all the work
//! that waits, in the order of arrival, does it as one, tells each caller its own answer, and hands
//! the lead to the first of those who came meanwhile. There is no thread of its own.
//!
//! # Locks
//!
//! 1. A queue's mutex is held to add, count or take work, a seat's to leave or take what it is told;
//!    no call ever holds two. Work is done and dropped while none is held.
//! 2. `led` is set exactly while somebody leads, or has been told to. Work is in the queue only then,
//!    so nobody waits without a leader.
//! 3. A leader that ends, by an answer or by a panic, has told every seat that it took, and has handed
//!    over: `Shift`'s `Drop` sees to both.

use crate::sync::{Arc, Condvar, Mutex, thread};
use std::fmt;
use std::vec;

/// Work of type `W` that is done together, and answered one by one with an `R`.
pub(super) struct Group<W, R> {
    queue: Mutex<Queue<W, R>>,
    patience: u32,
}

struct Queue<W, R> {
    waiting: Vec<(W, Arc<Seat<R>>)>,
    led: bool,
    /// How much work the last leader took. As many may be back soon.
    served: usize,
}

/// Where one caller waits.
struct Seat<R> {
    told: Mutex<Told<R>>,
    wake: Condvar,
}

enum Told<R> {
    Nothing,
    Lead,
    Answer(R),
}

impl<W, R> Group<W, R> {
    /// A leader yields to other threads up to `patience` times before it begins, for as long as less
    /// work waits than the last leader took: callers who were answered together come back together,
    /// and a leader who did not wait for them would leave them out. A caller who is alone never
    /// waits, for then the last leader took one.
    pub(super) fn new(patience: u32) -> Self {
        Group {
            queue: Mutex::new(Queue {
                waiting: Vec::new(),
                led: false,
                served: 0,
            }),
            patience,
        }
    }

    /// Does `work`, with whatever else waits, and returns what came of it.
    ///
    /// `apply` is called at most once, on this thread if it leads: it is given all the work that
    /// waits, in the order of arrival, and returns the answers in the same order. Whoever it gives
    /// none, because it panicked or returned too few, is given an `unanswered`.
    pub(super) fn run(
        &self,
        work: W,
        apply: impl FnOnce(Vec<W>) -> Vec<R>,
        unanswered: impl Fn() -> R,
    ) -> R {
        let seat = Arc::new(Seat::new());
        let leads = {
            let mut queue = self.queue.lock();
            queue.waiting.push((work, Arc::clone(&seat)));
            !std::mem::replace(&mut queue.led, true)
        };
        if !leads {
            if let Some(answer) = seat.wait() {
                return answer;
            }
        }
        self.lead(apply, &unanswered);
        // The work of this caller was among what it took, so its seat was told.
        seat.wait().unwrap_or_else(unanswered)
    }

    fn lead(&self, apply: impl FnOnce(Vec<W>) -> Vec<R>, unanswered: &impl Fn() -> R) {
        self.gather();
        let taken = {
            let mut queue = self.queue.lock();
            queue.served = queue.waiting.len();
            std::mem::take(&mut queue.waiting)
        };
        let (works, seats): (Vec<W>, Vec<_>) = taken.into_iter().unzip();
        let mut shift = Shift {
            group: self,
            seats: seats.into_iter(),
            unanswered,
        };
        for answer in apply(works) {
            if let Some(seat) = shift.seats.next() {
                seat.tell(Told::Answer(answer));
            }
        }
    }

    fn gather(&self) {
        for _ in 0..self.patience {
            let queue = self.queue.lock();
            if queue.waiting.len() >= queue.served {
                return;
            }
            drop(queue);
            thread::yield_now();
        }
    }

    /// Ends a lead: the first who waits takes it over, if anybody does.
    fn hand_over(&self) {
        let mut queue = self.queue.lock();
        let next = queue.waiting.first().map(|(_, seat)| Arc::clone(seat));
        queue.led = next.is_some();
        drop(queue);
        if let Some(seat) = next {
            seat.tell(Told::Lead);
        }
    }
}

impl<W, R> fmt::Debug for Group<W, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}

impl<R> Seat<R> {
    fn new() -> Self {
        Seat {
            told: Mutex::new(Told::Nothing),
            wake: Condvar::default(),
        }
    }

    fn tell(&self, what: Told<R>) {
        *self.told.lock() = what;
        self.wake.notify_one();
    }

    /// The answer, or `None` if this caller is to lead.
    fn wait(&self) -> Option<R> {
        let mut told = self.told.lock();
        loop {
            match std::mem::replace(&mut *told, Told::Nothing) {
                Told::Answer(answer) => return Some(answer),
                Told::Lead => return None,
                Told::Nothing => told = self.wake.wait(told),
            }
        }
    }
}

/// One leader's turn, from the taking of the work to the handing over.
struct Shift<'a, W, R, U: Fn() -> R> {
    group: &'a Group<W, R>,
    /// Those who have not been told.
    seats: vec::IntoIter<Arc<Seat<R>>>,
    unanswered: &'a U,
}

impl<W, R, U: Fn() -> R> Drop for Shift<'_, W, R, U> {
    fn drop(&mut self) {
        for seat in self.seats.by_ref() {
            seat.tell(Told::Answer((self.unanswered)()));
        }
        self.group.hand_over();
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc;

    type Numbers = Group<u32, Option<u32>>;

    /// Doubles all that waits, and keeps what it was given.
    fn doubled(group: &Numbers, number: u32, seen: &Mutex<Vec<Vec<u32>>>) -> Option<u32> {
        let apply = |numbers: Vec<u32>| {
            let answers = numbers.iter().map(|number| Some(number * 2)).collect();
            seen.lock().push(numbers);
            answers
        };
        group.run(number, apply, || None)
    }

    fn waiting(group: &Numbers) -> usize {
        group.queue.lock().waiting.len()
    }

    /// Holds the lead until `count` others wait, then ends it with `end`.
    fn lead_until_others_wait<R>(group: &Numbers, count: usize, end: impl FnOnce() -> R) -> R {
        while waiting(group) < count {
            thread::yield_now();
        }
        end()
    }

    #[test]
    fn a_caller_alone_does_its_own_work() {
        let (group, seen) = (Numbers::new(0), Mutex::new(Vec::new()));
        assert_eq!(doubled(&group, 1, &seen), Some(2));
        assert_eq!(doubled(&group, 2, &seen), Some(4));
        assert_eq!(*seen.lock(), [[1], [2]]);
    }

    #[test]
    fn all_who_wait_are_served_at_once_in_the_order_of_arrival() {
        let (group, seen) = (Numbers::new(0), Mutex::new(Vec::new()));
        let (leads, led) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                let apply = |_| {
                    leads.send(()).unwrap();
                    lead_until_others_wait(&group, 5, || vec![Some(0)])
                };
                assert_eq!(group.run(0, apply, || None), Some(0));
            });
            led.recv().unwrap();
            for number in 1..=5 {
                let (group, seen) = (&group, &seen);
                scope.spawn(move || assert_eq!(doubled(group, number, seen), Some(2 * number)));
                // When the last of them waits, the leader ends, and they may all be gone at once.
                while number < 5 && waiting(group) < number as usize {
                    thread::yield_now();
                }
            }
        });
        assert_eq!(*seen.lock(), [[1, 2, 3, 4, 5]]);
    }

    #[test]
    fn a_leader_that_panics_leaves_nobody_waiting() {
        let (group, seen) = (Numbers::new(0), Mutex::new(Vec::new()));
        let (leads, led) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                // Taken alone: what comes meanwhile is for the next leader.
                let apply = |_| {
                    leads.send(()).unwrap();
                    lead_until_others_wait(&group, 3, || vec![Some(0)])
                };
                group.run(0, apply, || None)
            });
            led.recv().unwrap();
            let panics = scope.spawn(|| {
                let run = || group.run(1, |_| panic!("the leader fails"), || None);
                catch_unwind(AssertUnwindSafe(run)).is_err()
            });
            while waiting(&group) < 1 {
                thread::yield_now();
            }
            let followers = [2, 3].map(|number| {
                let (group, seen) = (&group, &seen);
                scope.spawn(move || doubled(group, number, seen))
            });
            assert!(panics.join().unwrap(), "its panic was swallowed");
            for follower in followers {
                assert_eq!(follower.join().unwrap(), None);
            }
        });
        assert_eq!(doubled(&group, 4, &seen), Some(8));
    }

    #[test]
    fn whoever_is_given_no_answer_is_told_so() {
        let group = Numbers::new(0);
        assert_eq!(group.run(1, |_| Vec::new(), || None), None);
        assert_eq!(group.run(1, |_| vec![Some(1), Some(2)], || None), Some(1));
    }
}

/// Every order of few callers, or very many orders of more.
#[cfg(all(test, any(loom, shuttle)))]
mod model {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    #[cfg(loom)]
    use loom::{sync::Arc as Shared, thread::spawn};
    #[cfg(shuttle)]
    use shuttle::{sync::Arc as Shared, thread::spawn};

    const CALLERS: u32 = if cfg!(loom) { 2 } else { 4 };

    fn explore(body: impl Fn() + Send + Sync + 'static) {
        #[cfg(loom)]
        {
            let mut builder = loom::model::Builder::new();
            let preemptions = std::env::var("PREEMPTIONS").ok();
            builder.preemption_bound = Some(preemptions.map_or(2, |bound| bound.parse().unwrap()));
            builder.check(body);
        }
        #[cfg(shuttle)]
        {
            let schedules = std::env::var("SHUTTLE_ITERS").ok();
            let schedules = schedules.map_or(1_000, |count| count.parse().unwrap());
            let body = Shared::new(body);
            let same = Shared::clone(&body);
            shuttle::check_random(move || same(), schedules);
            shuttle::check_pct(move || body(), schedules, 3);
        }
    }

    /// Every caller's work is done once and each is told its own answer, whoever leads; all in the
    /// order in which they were applied.
    #[test]
    fn every_caller_is_told_its_own_answer_once() {
        explore(|| {
            let group = Shared::new(Group::<u32, (u32, u32)>::new(1));
            let applied = Shared::new(Mutex::new(Vec::<u32>::new()));
            let run = |number: u32| {
                let (group, applied) = (Shared::clone(&group), Shared::clone(&applied));
                move || {
                    let apply = |works: Vec<u32>| {
                        let mut applied = applied.lock();
                        let first = applied.len() as u32;
                        applied.extend(&works);
                        (first..).zip(works).collect()
                    };
                    group.run(number, apply, || panic!("unanswered"))
                }
            };
            let others: Vec<_> = (1..CALLERS).map(|number| spawn(run(number))).collect();
            let mut answers = vec![run(0)()];
            answers.extend(others.into_iter().map(|other| other.join().unwrap()));
            let mut applied = applied.lock().clone();
            for (place, number) in &answers {
                assert_eq!(applied[*place as usize], *number);
            }
            applied.sort_unstable();
            assert_eq!(applied, (0..CALLERS).collect::<Vec<_>>());
        });
    }

    /// A leader that panics leaves nobody waiting, and who comes later is served.
    #[test]
    fn nobody_waits_for_a_leader_that_panicked() {
        explore(|| {
            let group = Shared::new(Group::<bool, bool>::new(0));
            let run = |panics: bool| {
                let group = Shared::clone(&group);
                move || {
                    let apply = |works: Vec<bool>| match works.contains(&true) {
                        true => resume_unwind(Box::new("planted")),
                        false => works.iter().map(|_| true).collect(),
                    };
                    let run = || group.run(panics, apply, || false);
                    catch_unwind(AssertUnwindSafe(run)).ok()
                }
            };
            let other = spawn(run(false));
            let planted = run(true)();
            assert_ne!(planted, Some(true), "the work that panics was done");
            other.join().unwrap();
            assert_eq!(run(false)(), Some(true));
        });
    }
}
