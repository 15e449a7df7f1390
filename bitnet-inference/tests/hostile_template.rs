//! Templates that try to use up time, memory or the stack, or to reach what is not theirs, are stopped with an error.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use bitnet_inference::chat::{ChatTemplate, Message, RenderOptions, TemplateError};

/// Loads and renders; a hostile template fails in one or the other.
fn outcome(source: &str) -> Result<String, TemplateError> {
    let template = ChatTemplate::new(source, "hostile")?;
    template.render(&[Message::new("user", "Hello")], &RenderOptions::default())
}

#[track_caller]
fn refused(source: &str) {
    let shown: String = source.chars().take(100).collect();
    match outcome(source) {
        Err(
            TemplateError::Limit { .. }
            | TemplateError::Syntax { .. }
            | TemplateError::Render { .. }
            | TemplateError::TooLong { .. },
        ) => {}
        Err(other) => panic!("{shown}: {other}"),
        Ok(text) => panic!("{shown}: rendered {} bytes", text.len()),
    }
}

#[track_caller]
fn limited(source: &str) {
    let shown: String = source.chars().take(100).collect();
    match outcome(source) {
        Err(TemplateError::Limit { .. }) => {}
        other => panic!("{shown}: {:?}", other.map(|text| text.len())),
    }
}

/// A loop of the given body with a namespace that keeps a text and a list.
fn loops(body: &str) -> String {
    format!(
        "{{% set ns = namespace(s='xxxxxxxx', l=[1]) %}}{{% for i in range(10000) %}}{body}{{% endfor %}}{{{{ ns.s | length }}}}"
    )
}

#[test]
fn deep_nesting_in_the_source_is_refused() {
    for depth in [1_000, 10_000, 30_000] {
        refused(&format!("{{{{ {}1{} }}}}", "(".repeat(depth), ")".repeat(depth)));
        refused(&format!("{{{{ {}1{} }}}}", "[".repeat(depth), "]".repeat(depth)));
        refused(&"{% if 1 %}".repeat(depth));
        refused(&format!("{}x{}", "{%if 1%}".repeat(depth), "{%endif%}".repeat(depth)));
    }
}

#[test]
fn long_chains_in_the_source_end_without_using_up_the_stack() {
    for size in [100, 2_000, 10_000] {
        for source in [
            format!("{{{{ 1{} }}}}", "+1".repeat(size)),
            format!("{{{{ 1{} }}}}", "~1".repeat(size)),
            format!("{{{{ x{} }}}}", ".y".repeat(size)),
            format!("{{{{ x{} }}}}", "[0]".repeat(size)),
            format!("{{{{ 'x'{} }}}}", "|e".repeat(size)),
            format!("{{{{ {}1 }}}}", "not ".repeat(size)),
            format!("{{{{ {}1 }}}}", "-".repeat(size)),
            format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(size / 3)),
            format!("{{{{ 1{} }}}}", " and 1".repeat(size)),
            format!("{{{{ 1{} }}}}", "**1".repeat(size)),
            format!("{{% if 0 %}}{}{{% endif %}}", "{%elif 0%}".repeat(size / 2)),
        ] {
            let _either = outcome(&source);
        }
    }
}

#[test]
fn recursion_is_bounded() {
    refused("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}");
    refused("{% macro m(n) %}{{ m(n ~ 'x') ~ m(n ~ 'y') }}{% endmacro %}{{ m('') }}");
    refused("{% block a %}{{ self.a() }}{% endblock %}");
    refused("{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}");
}

#[test]
fn loops_are_bounded() {
    let nested = "{% for i in range(1000) %}".repeat(5) + "x" + &"{% endfor %}".repeat(5);
    limited(&nested);
    refused("{% for i in range(1000000000) %}{% endfor %}");
    limited(&format!("{{% for i in range(99999) %}}{}{{% endfor %}}", "x".repeat(50_000)));
    limited(&format!(
        "{{% for i in range(99999) %}}{{% set s %}}{}{{% endset %}}{{% endfor %}}",
        "x".repeat(50_000)
    ));
}

#[test]
fn texts_cannot_double() {
    for body in [
        "{% set ns.s = ns.s ~ ns.s %}",
        "{% set ns.s = ns.s + ns.s %}",
        "{% set ns.s = ns.s * 2 %}",
        "{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}",
        "{% set ns.s = ns.s | replace('x', 'xx') %}",
        "{% set ns.s = ns.s.replace('x', 'xx') %}",
        "{% set ns.s = ns.s | replace('', 'x') %}",
        "{% set ns.s = [ns.s, ns.s] | join %}",
        "{% set ns.s = [ns.s, ns.s] | join(ns.s) %}",
        "{% set ns.s = ns.s.join([ns.s, ns.s]) %}",
        "{% set ns.s = '%s%s' | format(ns.s, ns.s) %}",
        "{% set ns.s = '{}{}'.format(ns.s, ns.s) %}",
        "{% set ns.s = [ns.s, ns.s] | tojson %}",
        "{% set ns.s = [ns.s, ns.s] | string %}",
        "{% set ns.s = [ns.s, ns.s] ~ '' %}",
        "{% set ns.s = (ns.s ~ '\\n') | indent(1000) %}",
        "{% set ns.l = ns.l + ns.l %}",
        "{% set ns.l = ns.l * 2 %}",
        "{% set ns.l = [ns.l, ns.l] %}",
        "{% set ns.l = ns.l + [ns.s | list] %}",
        "{% set ns.l = ns.l + [range(10000) | list] %}",
        "{% set ns.l = {'a': ns.l, 'b': ns.l} %}",
        "{% set ns.l = dict(a=ns.l, b=ns.l) %}",
        "{% set ns.l = namespace(a=ns.l) %}",
        "{% set ns.s = '%s%s' % (ns.s, ns.s) %}",
        "{% set ns.s = ns.s.ljust(2 * (ns.s | length)) %}",
        "{% set ns.s = ns.s | center(2 * (ns.s | length)) %}",
        "{% set ns.s = (ns.s, ns.s) ~ '' %}",
        "{% set ns.s = '%r' % (ns.s ~ '\x01') %}{% set ns.s = ns.s ~ ns.s %}",
        "{% set ns.l = [ns.l, ns.l] | sum(start=[]) %}",
        "{% set ns.l = (ns.l + ns.l) | batch(2) | list %}",
        "{% set ns.l = (ns.l, ns.l) %}",
    ] {
        limited(&loops(body));
    }
    let straight = "{% set s = s ~ s %}".repeat(40);
    limited(&format!("{{% set s = 'xxxxxxxx' %}}{straight}{{{{ s | length }}}}"));
    let escaped = "{% set s = s | tojson %}".repeat(40);
    limited(&format!("{{% set s = '\"' %}}{escaped}{{{{ s | length }}}}"));
    let shared = "{% set l = [l, l] %}".repeat(40);
    for last in [
        "{{ l }}",
        "{{ l == l }}",
        "{{ l in l }}",
        "{{ l | tojson }}",
        "{{ l | string }}",
        "{{ l is eq(l) }}",
        "{{ l | sort }}",
        "{{ l == l == l }}",
        "{{ l < l < l }}",
        "{{ '%s' % (l,) }}",
        "{{ '%r' % [l] }}",
        "{{ l | sum(start=[]) | tojson }}",
    ] {
        limited(&format!("{{% set l = [1] %}}{shared}{last}"));
    }
}

#[test]
fn widths_and_counts_are_bounded() {
    for source in [
        "{{ 'a\nb' | indent(1000000000) }}",
        "{{ 'a\nb' | indent(width=1000000000) }}",
        "{{ 'a' | indent(1000000000, true) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '%*d' | format(1000000000, 1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 1000000000) }}",
        "{{ 'x' * 1000000000 }}",
        "{{ 1000000000 * 'x' }}",
        "{{ [1] * 1000000000 }}",
        "{{ (1,) * 1000000000000000000 }}",
        "{{ 1000000000000000000 * [1, 2] }}",
        "{{ 'x' | center(1000000000) }}",
        "{{ 'x'.center(1000000000) }}",
        "{{ 'x'.ljust(1000000000) }}",
        "{{ 'x'.rjust(1000000000, 'é') }}",
        "{{ 'x'.zfill(1000000000) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%.1000000000f' % 1.5 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%(a)99999s' % {'a': 1} }}",
        "{{ 1.5 | round(1000000000) }}",
        "{{ 'a' | indent('x' * 1000000) }}",
        "{{ [1] | batch(1000000000, 'x') | list }}",
        "{{ [1] | slice(1000000000) | list }}",
        "{{ {'a': 1} | tojson(indent=1000000000) }}",
        "{{ 10 ** 100000 }}",
        "{{ range(1000000000) | list | length }}",
        "{{ lipsum(1000000) }}",
    ] {
        refused(source);
    }
    let a = "x".repeat(1000);
    limited(&format!(
        "{{{{ '{a}' | replace('x', '{a}') | replace('x', '{a}') | replace('x', '{a}') | length }}}}"
    ));
}

#[test]
fn repeating_nothing_gives_nothing() {
    for times in ["1000000000000", "1000000000000000000"] {
        assert_eq!(outcome(&format!("{{{{ [] * {times} }}}}")).unwrap(), "[]");
        assert_eq!(outcome(&format!("{{{{ {times} * [] }}}}")).unwrap(), "[]");
        assert_eq!(outcome(&format!("{{{{ () * {times} }}}}")).unwrap(), "()");
        assert_eq!(outcome(&format!("{{{{ '' * {times} }}}}")).unwrap(), "");
    }
    assert_eq!(outcome("{{ [1, 2] * 2 }} {{ (1,) * 3 }}").unwrap(), "[1, 2, 1, 2] (1, 1, 1)");
}

// As Jinja2 3.1.
#[test]
fn repetitions_are_whole_numbers_of_64_bits() {
    // Variables: products of constants never reach the filters.
    let with = |expression: &str| format!("{{% set n, x = 10 ** 30, 2.0 %}}{{{{ {expression} }}}}");
    for expression in ["[1] * n", "[] * n", "n * 'a'", "'a' * (0 - n)", "'a' * x", "x * (1,)"] {
        refused(&with(expression));
    }
    let text =
        outcome("{% set n, t = 0 - 2, true %}{{ [1] * n }}|{{ 'a' * t }}|{{ (not t) * [1] }}");
    assert_eq!(text.unwrap(), "[]|a|[]");
}

#[test]
fn positions_in_texts_may_be_any_integer() {
    for (source, expected) in [
        ("{{ 'abc'.find('a', 9223372036854775807) }}", "-1"),
        ("{{ 'abc'.find('a', -9223372036854775807) }}", "0"),
        ("{{ 'abc'.count('a', 0, 9223372036854775807) }}", "1"),
        ("{{ 'abc'.startswith('a', 9223372036854775807) }}", "False"),
        ("{{ 'abc'[9223372036854775807:] }}", ""),
        ("{{ 'abc'[-9223372036854775807:] }}", "abc"),
    ] {
        assert_eq!(outcome(source).unwrap(), expected, "{source}");
    }
}

#[test]
fn joining_many_messages_fits_the_limits() {
    let messages: Vec<Message> =
        (0..1000).map(|_| Message::new("user", "x".repeat(1000))).collect();
    let formats = "%s".repeat(1000);
    for source in [
        "{{ messages | map(attribute='content') | join }}",
        "{{ messages | join(attribute='content') }}",
        "{{ ''.join(messages | map(attribute='content')) }}",
        &format!("{{{{ '{formats}' % ((messages[0].content,) * 1000) }}}}"),
    ] {
        let template = ChatTemplate::new(source, "joins").unwrap();
        let text = template.render(&messages, &RenderOptions::default());
        assert_eq!(text.unwrap().len(), 1_000_000, "{}", &source[..50]);
    }
}

#[test]
fn chains_of_comparisons_nest_without_growing() {
    let mut chain = "1".to_owned();
    for _ in 0..40 {
        chain = format!("(0 < {chain} < ns.n)");
    }
    let source = format!("{{% set ns = namespace(n=9) %}}{{{{ {chain} }}}}");
    assert_eq!(outcome(&source).unwrap(), "True");
}

#[test]
fn nothing_outside_the_template_is_reached() {
    for source in [
        "{% include '/etc/passwd' %}",
        "{% include 'hostile' %}",
        "{% extends 'hostile' %}",
        "{% import '/etc/passwd' as p %}{{ p }}",
        "{% from 'hostile' import m %}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ raise_exception.__globals__['os'] }}",
        "{{ open('/etc/passwd') }}",
        "{{ debug() }}",
    ] {
        refused(source);
    }
}

#[test]
fn a_namespace_inside_itself_is_refused() {
    limited("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}");
    limited("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns == [ns] }}");
    limited(
        "{% set ns = namespace(l=[]) %}{% for i in range(20000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ 1 }}",
    );
}

#[test]
fn a_source_that_is_too_long_is_refused_unread() {
    assert!(matches!(outcome(&" ".repeat(1 << 20)), Err(TemplateError::TooLong { .. })));
}

#[test]
fn broken_syntax_names_the_line() {
    match outcome("a\nb\n{{ c") {
        Err(TemplateError::Syntax { problem, .. }) => {
            assert!(problem.contains("line 3"), "{problem}")
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(outcome("{{ x | no_such_filter }}"), Err(TemplateError::Syntax { .. })));
}

#[test]
fn an_exception_raised_by_the_template_is_reported() {
    let template =
        ChatTemplate::new("{{ raise_exception('no system ' ~ 'please') }}", "strict").unwrap();
    match template.render(&[Message::new("system", "x")], &RenderOptions::default()) {
        Err(TemplateError::Raised { message, .. }) => assert_eq!(message, "no system please"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn long_conversations_fit_the_limits() {
    for kind in bitnet_inference::chat::Builtin::ALL {
        let template = ChatTemplate::builtin(kind).unwrap();
        let messages: Vec<Message> = (0..2000)
            .map(|i| Message::new(if i % 2 == 0 { "user" } else { "assistant" }, "x".repeat(200)))
            .collect();
        assert!(template.render(&messages, &RenderOptions::default()).unwrap().len() > 400_000);
        let long = [Message::new("user", "y ".repeat(1 << 20))];
        assert!(template.render(&long, &RenderOptions::default()).unwrap().len() >= (2 << 20) - 1);
    }
}
