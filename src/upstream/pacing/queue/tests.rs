//! Handshakes and servers that are numbers: each step of the shell is a step here, in any order.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn server(number: usize) -> SocketAddr {
    ([127, 0, 0, 1], 9000 + number as u16).into()
}

fn enter(queue: &mut Queue<usize>, line: Line, again: bool, call: usize) -> Waiter {
    let entered = queue.enter(line, again, (usize::MAX, Instant::now()), call);
    entered.expect("there is no bound")
}

#[test]
fn who_came_first_is_called_first_and_leavers_are_passed_over() {
    let mut queue = Queue::default();
    let [a, b, c] = [1, 2, 3].map(|call| enter(&mut queue, Line::Any, false, call));
    assert!(queue.is_first(a) && !queue.is_first(b));
    assert_eq!(queue.freed(server(0)).collect::<Vec<_>>(), [&1]);
    assert_eq!(queue.leave(b), None);
    assert_eq!(queue.leave(a), Some(&3));
    assert_eq!(queue.leave(a), None);
    assert_eq!(queue.leave(c), None);
    assert_eq!((queue.waiting(), queue.longest()), (0, None));
}

#[test]
fn who_comes_again_is_first_and_the_bound_holds_over_all_lines() {
    let mut queue = Queue::default();
    let own = Line::Of(server(0));
    let first = enter(&mut queue, Line::Any, false, 1);
    let again = enter(&mut queue, Line::Any, true, 2);
    assert!(queue.is_first(again) && !queue.is_first(first));
    assert!(queue.enter(own, false, (2, Instant::now()), 3).is_none());
    assert!(queue.enter(own, false, (3, Instant::now()), 3).is_some());
    let called: HashSet<_> = queue.freed(server(0)).copied().collect();
    assert_eq!(called, HashSet::from([2, 3]));
    assert_eq!(queue.freed(server(1)).collect::<Vec<_>>(), [&2]);
}

#[test]
fn of_two_lines_the_one_that_has_waited_longer_is_called_first() {
    let mut queue = Queue::default();
    let start = Instant::now();
    let own = Line::Of(server(0));
    let later = start + Duration::from_secs(1);
    queue.enter(Line::Any, false, (9, later), 1).expect("room");
    queue.enter(own, false, (9, start), 2).expect("room");
    assert_eq!(queue.freed(server(0)).collect::<Vec<_>>(), [&2, &1]);
    assert_eq!(queue.longest(), Some(start));
}

/// What a handshake does when it runs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    Arriving,
    /// It found no room, and enters the queue in its next step.
    Entering,
    /// It waits until it is called.
    Waiting(Waiter),
    /// It was called, or has just entered: it looks in its next step.
    Looking(Waiter),
    On(usize),
    Gone,
}

/// Servers with fixed room, a queue, and handshakes whose steps come in any order, as tasks of
/// several threads take them.
struct World {
    queue: Queue<usize>,
    room: Vec<usize>,
    taken: Vec<usize>,
    tasks: Vec<(Line, Task)>,
    /// Calls that a handshake has not answered yet, as `Notify` stores them.
    called: HashSet<usize>,
    /// In which order those of each line that waited were admitted.
    admitted: HashMap<Line, Vec<Waiter>>,
}

impl World {
    fn new(room: &[usize]) -> Self {
        Self {
            queue: Queue::default(),
            taken: vec![0; room.len()],
            room: room.to_vec(),
            tasks: Vec::new(),
            called: HashSet::new(),
            admitted: HashMap::new(),
        }
    }

    /// Takes room at a server of the line, if there is some.
    fn take(&mut self, line: Line) -> Option<usize> {
        let mut servers = 0..self.room.len();
        let found = servers.find(|number| {
            let is_right = line == Line::Any || line == Line::Of(server(*number));
            is_right && self.taken[*number] < self.room[*number]
        })?;
        self.taken[found] += 1;
        Some(found)
    }

    fn step(&mut self, number: usize) {
        let (line, task) = self.tasks[number];
        let next = match task {
            Task::Arriving if self.queue.has(line) => Task::Entering,
            Task::Arriving => self.take(line).map_or(Task::Entering, Task::On),
            Task::Entering => Task::Looking(enter(&mut self.queue, line, false, number)),
            Task::Waiting(waiter) if self.called.remove(&number) => Task::Looking(waiter),
            Task::Looking(waiter) if !self.queue.is_first(waiter) => Task::Waiting(waiter),
            Task::Looking(waiter) => match self.take(line) {
                Some(server) => {
                    self.admitted.entry(line).or_default().push(waiter);
                    self.leave(waiter);
                    Task::On(server)
                }
                None => Task::Waiting(waiter),
            },
            Task::On(on) => {
                self.taken[on] -= 1;
                self.called.extend(self.queue.freed(server(on)));
                Task::Gone
            }
            same @ (Task::Waiting(_) | Task::Gone) => same,
        };
        self.tasks[number].1 = next;
    }

    fn give_up(&mut self, number: usize) {
        if let Task::Waiting(waiter) | Task::Looking(waiter) = self.tasks[number].1 {
            self.tasks[number].1 = Task::Gone;
            self.leave(waiter);
        }
    }

    fn leave(&mut self, waiter: Waiter) {
        self.called.extend(self.queue.leave(waiter));
    }

    /// Lets every handshake go on as long as one can.
    fn settle(&mut self, until_all_are_gone: bool) {
        loop {
            let before = self.tasks.clone();
            for number in 0..self.tasks.len() {
                if until_all_are_gone || !matches!(self.tasks[number].1, Task::On(_)) {
                    self.step(number);
                }
            }
            if self.tasks == before {
                return;
            }
        }
    }
}

fn line(number: usize, servers: usize) -> Line {
    match number % (servers + 1) {
        0 => Line::Any,
        own => Line::Of(server(own - 1)),
    }
}

proptest! {
    #[test]
    fn no_call_is_lost_nobody_starves_and_no_server_gets_more_than_it_may(
        room in prop::collection::vec(1..4_usize, 1..4),
        steps in prop::collection::vec((0..10_u8, 0..1000_usize), 1..400),
    ) {
        let mut world = World::new(&room);
        for (what, number) in steps {
            match what {
                0 | 1 => world.tasks.push((line(number, room.len()), Task::Arriving)),
                2 if !world.tasks.is_empty() => world.give_up(number % world.tasks.len()),
                _ if !world.tasks.is_empty() => world.step(number % world.tasks.len()),
                _ => {}
            }
            let within = world.taken.iter().zip(&world.room).all(|(taken, room)| taken <= room);
            prop_assert!(within, "{:?}", world.taken);
        }
        // When nothing moves any more, nobody waits for a server that has room.
        world.settle(false);
        for (line, task) in world.tasks.clone() {
            if matches!(task, Task::Waiting(_)) {
                prop_assert_eq!(world.take(line), None, "{:?} waits for room that is there", line);
            }
        }
        // When the servers go on, everybody has its turn, and in each line in order.
        world.settle(true);
        let is_gone = |(_, task): &(Line, Task)| *task == Task::Gone;
        prop_assert!(world.tasks.iter().all(is_gone), "{:?}", world.tasks);
        prop_assert_eq!(world.queue.waiting(), 0);
        for order in world.admitted.values() {
            prop_assert!(order.is_sorted_by_key(|waiter| waiter.number));
        }
    }
}
