use super::*;

const A: Key<'_> = Key::new("a", "lock");
const B: Key<'_> = Key::new("b", "lock");

fn no_limit() -> Duration {
    Duration::MAX
}

impl RetryQueue {
    /// Returns whether no transaction has or waits for a turn, and no lock is closed.
    fn is_idle(&self) -> bool {
        self.queues.lock().table.is_empty() && self.closed.load(Ordering::Relaxed) == 0
    }

    fn has_turn(&self, turns: &Turns<'_>, lock: Key<'_>) -> bool {
        let mut queues = self.queues.lock();
        let queue = queues.find(lock);
        queue.is_some_and(|queue| queue.holder == turns.ticket)
    }
}

#[cfg(not(any(loom, shuttle)))]
mod on_threads {
    use super::*;
    use crate::testing::with_timeout;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::sync::mpsc;
    use std::thread;

    const LIMIT: Duration = Duration::from_secs(60);

    fn waiters(queue: &RetryQueue, lock: Key<'_>) -> usize {
        let mut queues = queue.queues.lock();
        queues.find(lock).map_or(0, |queue| queue.waiters.len())
    }

    fn wait_until(condition: impl Fn() -> bool) {
        while !condition() {
            thread::yield_now();
        }
    }

    fn lose(turns: &mut Turns<'_>, locks: &[Key<'_>]) {
        turns.take_after_race(locks.iter().copied(), &mut no_limit);
    }

    /// Makes the turn at `lock` look new for a minute, so that it is not taken over on a slow machine.
    fn prolong(queue: &RetryQueue, lock: Key<'_>) {
        if let Some(queue) = queue.queues.lock().find(lock) {
            queue.turn_began = Instant::now() + LIMIT;
        }
    }

    #[test]
    fn turns_are_given_in_the_order_in_which_transactions_lost() {
        with_timeout(LIMIT, |_| {
            let queue = RetryQueue::new();
            let (send, order) = mpsc::channel();
            let mut first = Turns::new(&queue);
            lose(&mut first, &[A]);
            prolong(&queue, A);
            thread::scope(|scope| {
                for number in 0..5 {
                    let (queue, send) = (&queue, send.clone());
                    scope.spawn(move || {
                        let mut turns = Turns::new(queue);
                        lose(&mut turns, &[A]);
                        send.send(number).unwrap();
                    });
                    wait_until(|| waiters(queue, A) == number + 1);
                }
                assert!(order.try_recv().is_err(), "the first turn has not ended");
                drop(first);
            });
            drop(send);
            assert_eq!(order.iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
            assert!(queue.is_idle());
        });
    }

    #[test]
    fn a_panic_ends_the_turn() {
        with_timeout(LIMIT, |_| {
            let queue = RetryQueue::new();
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                let mut turns = Turns::new(&queue);
                lose(&mut turns, &[A, B]);
                resume_unwind(Box::new("an injected panic"));
            }));
            assert!(panicked.is_err());
            assert!(queue.is_idle());
        });
    }

    #[test]
    fn a_turn_that_does_not_end_is_taken_over() {
        with_timeout(LIMIT, |_| {
            let queue = RetryQueue::new();
            let mut paused = Turns::new(&queue);
            lose(&mut paused, &[A]);
            let began = Instant::now();
            thread::scope(|scope| {
                let (send, taken) = mpsc::channel();
                let (end, ended) = mpsc::channel::<()>();
                let queue = &queue;
                scope.spawn(move || {
                    let mut turns = Turns::new(queue);
                    lose(&mut turns, &[A]);
                    send.send(queue.has_turn(&turns, A)).unwrap();
                    ended.recv().unwrap();
                    assert!(queue.has_turn(&turns, A), "the late end of the first turn");
                });
                assert!(taken.recv().unwrap());
                assert!(began.elapsed() >= PATIENCE);
                drop(paused);
                end.send(()).unwrap();
            });
            assert!(queue.is_idle());
        });
    }

    #[test]
    fn a_waiter_whose_turn_is_taken_over_before_it_wakes_up_waits_again() {
        with_timeout(LIMIT, |_| {
            let queue = RetryQueue::new();
            let mut first = Turns::new(&queue);
            lose(&mut first, &[A]);
            prolong(&queue, A);
            thread::scope(|scope| {
                let waiter = scope.spawn(|| {
                    let mut turns = Turns::new(&queue);
                    lose(&mut turns, &[A]);
                    assert!(queue.has_turn(&turns, A));
                });
                wait_until(|| waiters(&queue, A) == 1);
                if let Some(queue) = queue.queues.lock().find(A) {
                    queue.next_turn();
                    queue.holder = first.ticket;
                }
                // Its thread wakes up because it runs out of patience.
                wait_until(|| waiters(&queue, A) == 1);
                drop(first);
                waiter.join().unwrap();
            });
            assert!(queue.is_idle());
        });
    }

    #[test]
    fn a_wait_ends_when_no_time_is_left() {
        with_timeout(LIMIT, |_| {
            let queue = RetryQueue::new();
            let mut first = Turns::new(&queue);
            lose(&mut first, &[A]);
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut time = 3;
                    let mut turns = Turns::new(&queue);
                    turns.take_after_race([A].into_iter(), &mut || {
                        time -= 1;
                        Duration::from_millis(time)
                    });
                    assert!(!queue.has_turn(&turns, A));
                });
            });
            assert_eq!(
                waiters(&queue, A),
                0,
                "a transaction that gave up is not in the queue"
            );
            assert!(queue.has_turn(&first, A));
            drop(first);
            assert!(queue.is_idle());
        });
    }

    #[test]
    fn a_transaction_within_another_one_does_not_wait_for_it() {
        with_timeout(LIMIT, |_| {
            let queue = RetryQueue::new();
            let mut outer = Turns::new(&queue);
            lose(&mut outer, &[A]);
            let mut inner = Turns::new(&queue);
            for _ in 0..2 {
                inner.take_after_race([A].into_iter(), &mut || panic!("it waits"));
            }
            drop(inner);
            assert!(
                queue.has_turn(&outer, A),
                "the inner one has not ended the turn"
            );
        });
    }

    #[test]
    fn a_lock_that_is_lost_in_its_own_turn_is_closed_until_the_turn_ends() {
        with_timeout(LIMIT, |_| {
            let queue = RetryQueue::new();
            let mut turns = Turns::new(&queue);
            let mut newcomer = Turns::new(&queue);
            lose(&mut turns, &[A]);
            // Not closed yet, so a newcomer does not look at the queue.
            newcomer.wait_if_closed(A, &mut no_limit);
            assert_eq!(newcomer.ticket, 0);
            lose(&mut turns, &[A, B]);
            assert!(queue.is_closed(A) && !queue.is_closed(B));
            prolong(&queue, A);

            thread::scope(|scope| {
                let (send, entered) = mpsc::channel();
                let (queue, newcomer) = (&queue, &mut newcomer);
                scope.spawn(move || {
                    newcomer.wait_if_closed(B, &mut no_limit);
                    assert_eq!(newcomer.ticket, 0, "B is open");
                    newcomer.wait_if_closed(A, &mut no_limit);
                    send.send(()).unwrap();
                });
                wait_until(|| waiters(queue, A) == 1);
                assert!(entered.try_recv().is_err());
                drop(turns);
                entered.recv().unwrap();
            });
            assert!(queue.has_turn(&newcomer, A));
            drop(newcomer);
            assert!(queue.is_idle(), "{:?}", queue.closed);
        });
    }

    #[test]
    fn a_transaction_that_waits_gives_up_its_turns_at_greater_locks() {
        with_timeout(LIMIT, |_| {
            let queue = RetryQueue::new();
            let mut one = Turns::new(&queue);
            lose(&mut one, &[A]);
            prolong(&queue, A);
            thread::scope(|scope| {
                let (queue, send) = (&queue, mpsc::channel());
                scope.spawn(move || {
                    let mut other = Turns::new(queue);
                    lose(&mut other, &[B]);
                    lose(&mut other, &[A]);
                    assert!(queue.has_turn(&other, A) && queue.has_turn(&other, B));
                    send.0.send(()).unwrap();
                });
                wait_until(|| waiters(queue, A) == 1);
                // No circle: B is free for this transaction, which has A.
                lose(&mut one, &[B]);
                assert!(queue.has_turn(&one, A) && queue.has_turn(&one, B));
                drop(one);
                send.1.recv().unwrap();
            });
            assert!(queue.is_idle());
        });
    }

    #[test]
    fn short_turns_open_a_closed_lock() {
        with_timeout(LIMIT, |_| {
            let queue = RetryQueue::new();
            let mut turns = Turns::new(&queue);
            for is_short in [false, true] {
                lose(&mut turns, &[A]);
                lose(&mut turns, &[A]);
                thread::scope(|scope| {
                    let queue = &queue;
                    let next = scope.spawn(|| {
                        let mut turns = Turns::new(queue);
                        lose(&mut turns, &[A]);
                        queue.is_closed(A)
                    });
                    wait_until(|| waiters(queue, A) == 1);
                    if is_short {
                        prolong(queue, A);
                    } else {
                        thread::sleep(SHORT_TURN);
                    }
                    queue.end_turn(turns.ticket, A);
                    assert_eq!(next.join().unwrap(), !is_short);
                });
                assert!(queue.is_idle());
            }
        });
    }
}

#[cfg(any(loom, shuttle))]
mod model {
    use super::*;
    use crate::sync::explore;

    #[cfg(loom)]
    use loom::{sync::Arc as Shared, thread::spawn};
    #[cfg(shuttle)]
    use shuttle::{sync::Arc as Shared, thread::spawn};

    const THREADS: usize = if cfg!(loom) { 2 } else { 4 };

    /// Runs `transaction` on threads, each with its number. Afterwards, no transaction may be left in
    /// the queue.
    fn explore_turns(transaction: impl Fn(usize, &RetryQueue) + Copy + Send + Sync + 'static) {
        explore(move || {
            let queue = Shared::new(RetryQueue::new());
            let others: Vec<_> = (1..THREADS)
                .map(|number| {
                    let queue = Shared::clone(&queue);
                    spawn(move || transaction(number, &queue))
                })
                .collect();
            transaction(0, &queue);
            for other in others {
                other.join().unwrap();
            }
            assert!(queue.is_idle(), "a turn or a closed lock is left");
        });
    }

    /// No wake-up is lost, and no turn is left. Unless a wait is given up, which loom does not do, a
    /// transaction that has waited has its turn.
    #[test]
    fn every_transaction_gets_its_turn() {
        explore_turns(|_, queue| {
            let mut turns = Turns::new(queue);
            turns.take_after_race([A].into_iter(), &mut no_limit);
            assert!(cfg!(shuttle) || queue.has_turn(&turns, A));
            turns.take_after_race([A].into_iter(), &mut no_limit);
            assert!(cfg!(shuttle) || queue.has_turn(&turns, A));
        });
    }

    /// Transactions that lose two locks in different orders do not wait for each other.
    #[test]
    fn transactions_over_two_locks_do_not_deadlock() {
        explore_turns(|number, queue| {
            let mut turns = Turns::new(queue);
            let order = if number % 2 == 0 { [A, B] } else { [B, A] };
            for lock in order {
                turns.take_after_race([lock].into_iter(), &mut no_limit);
            }
            assert!(cfg!(shuttle) || queue.has_turn(&turns, A) && queue.has_turn(&turns, B));
        });
    }

    /// A newcomer at a closed lock is not left behind, whenever the lock is opened.
    #[test]
    fn a_newcomer_at_a_closed_lock_gets_its_turn() {
        explore_turns(|number, queue| {
            let mut turns = Turns::new(queue);
            if number == 0 {
                turns.take_after_race([A].into_iter(), &mut no_limit);
                turns.take_after_race([A].into_iter(), &mut no_limit);
            } else {
                turns.wait_if_closed(A, &mut no_limit);
            }
        });
    }
}
