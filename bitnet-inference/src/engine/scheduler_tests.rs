//! The scheduler's promises on random traces.

use super::*;
use proptest::prelude::*;

/// Seconds of a step of the simulated machine.
fn seconds(load: Load) -> f64 {
    0.03 + 0.005 * load.tokens as f64 + 0.002 * load.rows as f64 + 2e-8 * load.positions as f64
}

#[derive(Debug, Clone)]
struct Arrival {
    step: usize,
    client: u64,
    priority: Priority,
    prompt: usize,
    writes: usize,
    /// What the engine expects it to write.
    expected: usize,
}

fn arrival() -> impl Strategy<Value = Arrival> {
    let priority = prop_oneof![Just(Priority::Low), Just(Priority::Normal), Just(Priority::High)];
    (0usize..60, 0u64..3, priority, 1usize..600, 1usize..120, 1usize..80).prop_map(
        |(step, client, priority, prompt, writes, expected)| Arrival {
            step,
            client,
            priority,
            prompt,
            writes,
            expected,
        },
    )
}

#[derive(Debug)]
struct Text {
    arrival: Arrival,
    id: u64,
    arrived: Duration,
    context: usize,
    prompt_left: usize,
    writes_left: usize,
    pages: usize,
    expected_pages: usize,
}

impl Text {
    fn active(&self) -> Active {
        Active {
            id: self.id,
            client: self.arrival.client,
            priority: self.arrival.priority,
            arrived: self.arrived,
            prompt_left: self.prompt_left,
            context: self.context,
            room: self.pages * KV_PAGE - self.context,
            copies: 0,
            sequences: 1,
            promised: self.expected_pages.saturating_sub(self.pages),
            is_blocked: false,
        }
    }
}

/// Runs all arrivals to their end. Returns the step in which each ended, and those that were ended for want of memory.
fn simulate(arrivals: &[Arrival], limits: StepLimits, pages: usize) -> (Vec<Option<usize>>, usize) {
    let (mut scheduler, mut cost) = (Scheduler::new(limits.clone()), CostModel::default());
    let mut now = 0.0;
    let mut waiting: Vec<Text> = Vec::new();
    let mut active: Vec<Text> = Vec::new();
    let mut ended = vec![None; arrivals.len()];
    let mut out_of_memory = 0;
    for step in 0.. {
        let time = Duration::from_secs_f64(now);
        for (id, arrival) in arrivals.iter().enumerate().filter(|(_, a)| a.step == step) {
            let expected =
                (arrival.prompt + arrival.expected.min(arrival.writes)).div_ceil(KV_PAGE);
            waiting.push(Text {
                id: id as u64,
                arrived: time,
                context: 0,
                prompt_left: arrival.prompt,
                writes_left: arrival.writes,
                pages: 0,
                expected_pages: expected.min(pages),
                arrival: arrival.clone(),
            });
        }
        scheduler.set_clients(waiting.iter().chain(&active).map(|t| t.arrival.client));
        let views: Vec<Waiting> = waiting
            .iter()
            .map(|t| Waiting {
                id: t.id,
                client: t.arrival.client,
                priority: t.arrival.priority,
                arrived: t.arrived,
                prompt_left: t.prompt_left,
                pages: t.expected_pages,
                sequences: 1,
                follows: false,
            })
            .collect();
        let free = |active: &[Text]| pages - active.iter().map(|t| t.pages).sum::<usize>();
        let running: Vec<Active> = active.iter().map(Text::active).collect();
        for id in scheduler.admit(&views, &running, free(&active), &cost, time) {
            let index = waiting.iter().position(|t| t.id == id).expect("it was waiting");
            active.push(waiting.swap_remove(index));
        }
        assert!(active.len() <= limits.max_sequences);
        let running: Vec<Active> = active.iter().map(Text::active).collect();
        let plan = scheduler.step(&running, free(&active), &cost);
        check(&plan, &running, &limits, &cost);
        for (id, tokens) in &plan.run {
            let text = active.iter_mut().find(|t| t.id == *id).expect("it is active");
            text.context += tokens;
            text.pages = text.context.div_ceil(KV_PAGE);
            match text.prompt_left {
                0 => text.writes_left -= 1,
                _ => text.prompt_left -= tokens,
            }
        }
        assert!(active.iter().map(|t| t.pages).sum::<usize>() <= pages, "pages balance");
        if let Some(id) = plan.ended {
            out_of_memory += 1;
            ended[id as usize] = Some(step);
            active.retain(|t| t.id != id);
        }
        let took = seconds(plan.load);
        cost.learn(plan.load, took);
        now += if plan.run.is_empty() { 0.001 } else { took };
        for text in active.iter().filter(|t| t.prompt_left == 0 && t.writes_left == 0) {
            ended[text.id as usize] = Some(step);
        }
        active.retain(|t| t.prompt_left > 0 || t.writes_left > 0);
        let is_over = step > 60 && active.is_empty() && waiting.is_empty();
        if is_over || step > 100_000 {
            break;
        }
    }
    (ended, out_of_memory)
}

/// What holds in each step.
fn check(plan: &Plan, active: &[Active], limits: &StepLimits, cost: &CostModel) {
    let prompt_tokens: usize = plan
        .run
        .iter()
        .filter(|(id, _)| active.iter().any(|a| a.id == *id && a.prompt_left > 0))
        .map(|(_, tokens)| tokens)
        .sum();
    assert!(prompt_tokens <= limits.max_prompt_tokens);
    let writing = active.iter().filter(|a| a.prompt_left == 0 && !a.is_blocked).count();
    let wrote = plan.run.len()
        - plan
            .run
            .iter()
            .filter(|(id, _)| active.iter().any(|a| a.id == *id && a.prompt_left > 0))
            .count();
    assert_eq!(wrote + plan.paused.len(), writing, "each written text runs or waits for a page");
    // The budget: a step stays in its time but for the one tile that it always may read.
    if let (Some(planned), true) = (cost.predict(plan.load), wrote > 0) {
        let writing_load = plan
            .run
            .iter()
            .filter_map(|(id, tokens)| {
                let text = active.iter().find(|a| a.id == *id)?;
                (text.prompt_left == 0).then(|| Load::of(*tokens, text.context, 1))
            })
            .fold(Load::default(), Load::plus);
        let alone = cost.predict(writing_load).unwrap_or(0.0);
        let longest = active.iter().map(|a| a.context + a.prompt_left).max().unwrap_or(0);
        let tile = cost.of_prompt_token(longest).unwrap_or(0.0) * (TILE as f64 * 2.0 + 1.0);
        let row = cost.predict(Load { tokens: 0, rows: active.len(), positions: 0 }).unwrap_or(0.0);
        let target = (alone * limits.stretch).max(alone) + tile + row;
        assert!(planned <= target * 1.05 + 0.01, "{planned} > {target}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_request_ends_and_pages_balance(
        arrivals in prop::collection::vec(arrival(), 1..24),
        max_sequences in 1usize..9,
        pages in 12usize..80,
    ) {
        let limits = StepLimits { max_sequences, ..StepLimits::default() };
        let (ended, _) = simulate(&arrivals, limits, pages);
        prop_assert!(ended.iter().all(Option::is_some));
    }

    #[test]
    fn no_text_ends_for_want_of_memory_where_the_expectation_holds(
        arrivals in prop::collection::vec(arrival(), 1..24),
        pages in 12usize..80,
    ) {
        let exact = |a: Arrival| Arrival { expected: a.writes, ..a };
        let arrivals: Vec<Arrival> = arrivals.into_iter().map(exact).collect();
        let (ended, out_of_memory) = simulate(&arrivals, StepLimits::default(), pages);
        prop_assert_eq!(out_of_memory, 0);
        prop_assert!(ended.iter().all(Option::is_some));
    }
}

#[test]
fn a_client_with_one_request_passes_one_with_many() {
    let request = |client, prompt| Arrival {
        step: 0,
        client,
        priority: Priority::Normal,
        prompt,
        writes: 20,
        expected: 20,
    };
    let mut arrivals: Vec<Arrival> = (0..30).map(|_| request(1, 400)).collect();
    arrivals.push(Arrival { step: 5, ..request(2, 400) });
    let limits = StepLimits { max_sequences: 4, ..StepLimits::default() };
    let (ended, _) = simulate(&arrivals, limits, 10_000);
    let last = ended[30].unwrap();
    let before = ended[..30].iter().filter(|end| end.unwrap() < last).count();
    assert!(before <= 6, "{before} requests of the other client ended before it");
}

#[test]
fn a_low_priority_waits_and_does_not_starve() {
    let request = |step, priority| Arrival {
        step,
        client: 0,
        priority,
        prompt: 200,
        writes: 40,
        expected: 40,
    };
    let mut arrivals: Vec<Arrival> = (0..60).map(|step| request(step, Priority::High)).collect();
    arrivals.push(request(0, Priority::Low));
    let limits = StepLimits { max_sequences: 2, ..StepLimits::default() };
    let (ended, _) = simulate(&arrivals, limits, 10_000);
    let low = ended[60].unwrap();
    let after = ended[..60].iter().filter(|end| end.unwrap() > low).count();
    assert!((10..60).contains(&after), "{after} of 60 urgent requests ended after it");
}

#[test]
fn a_large_request_is_not_passed_for_ever() {
    let small = |step| Arrival {
        step,
        client: 0,
        priority: Priority::Normal,
        prompt: 60,
        writes: 60,
        expected: 60,
    };
    let mut arrivals: Vec<Arrival> = (0..60).flat_map(|step| [small(step), small(step)]).collect();
    arrivals.push(Arrival { prompt: 590, writes: 20, ..small(2) });
    let (ended, out_of_memory) = simulate(&arrivals, StepLimits::default(), 12);
    assert_eq!(out_of_memory, 0);
    let large = ended[120].unwrap();
    let after = ended[..120].iter().filter(|end| end.unwrap() > large).count();
    assert!(after > 10, "only {after} small requests ended after the large one");
}

#[test]
fn a_blocked_reader_is_not_written_for_and_not_ended() {
    let text = Active {
        id: 1,
        client: 0,
        priority: Priority::Normal,
        arrived: Duration::ZERO,
        prompt_left: 0,
        context: 10,
        room: 54,
        copies: 0,
        sequences: 1,
        promised: 0,
        is_blocked: true,
    };
    let plan = Scheduler::new(StepLimits::default()).step(&[text], 0, &CostModel::default());
    assert_eq!(plan, Plan::default());
}

#[test]
fn the_last_to_come_ends_when_no_text_can_have_a_page() {
    let text = |id| Active {
        id,
        client: 0,
        priority: Priority::Normal,
        arrived: Duration::from_secs(id),
        prompt_left: 0,
        context: 64,
        room: 0,
        copies: 0,
        sequences: 1,
        promised: 0,
        is_blocked: false,
    };
    let mut scheduler = Scheduler::new(StepLimits::default());
    let plan = scheduler.step(&[text(2), text(1)], 0, &CostModel::default());
    assert_eq!((plan.ended, plan.paused), (Some(2), vec![1, 2]));
    let plan = scheduler.step(&[text(2), text(1)], 1, &CostModel::default());
    assert_eq!((plan.run, plan.paused, plan.ended), (vec![(1, 1)], vec![2], None));
}
