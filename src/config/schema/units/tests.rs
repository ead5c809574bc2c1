use super::*;

fn decode<T: for<'de> Deserialize<'de>>(yaml: &str) -> Result<T, String> {
    serde_yaml::from_str(yaml).map_err(|error| error.to_string())
}

fn period(yaml: &str) -> Result<Duration, String> {
    decode(yaml).map(|Period(duration)| duration)
}

fn optional(yaml: &str) -> Result<Option<Duration>, String> {
    decode(yaml).map(|OptionalPeriod(duration)| duration)
}

#[test]
fn durations_have_units() {
    assert_eq!(period("250ms"), Ok(Duration::from_millis(250)));
    assert_eq!(period("50m"), Ok(Duration::from_secs(3000)));
    assert_eq!(period("24h"), Ok(Duration::from_secs(86_400)));
    assert!(period("30").is_err());
    assert!(period("'30'").is_err());
    assert!(period("4000d").is_err());
    assert!(period("-1s").is_err());
}

#[test]
fn off_and_zero_mean_none_only_where_none_means_something() {
    for none in ["off", "false", "0", "0s"] {
        assert_eq!(optional(none), Ok(None), "{none}");
        assert!(period(none).is_err(), "{none}");
    }
    assert_eq!(optional("1h"), Ok(Some(Duration::from_secs(3600))));
    assert!(optional("30").is_err());
    assert!(optional("true").is_err());
}

#[test]
fn a_list_is_not_a_section() {
    assert!(decode::<Section<Pair>>("{ a: 1, b: 2 }").is_ok());
    assert!(decode::<Section<Pair>>("[1, 2]").is_err());
    assert!(decode::<OffOr<Pair>>("[1, 2]").is_err());
    assert!(matches!(decode::<OffOr<Pair>>("off"), Ok(OffOr::Off)));
    assert!(matches!(decode::<OffOr<Pair>>("false"), Ok(OffOr::Off)));
}

#[test]
fn an_ordered_mapping_keeps_its_order() {
    let Ordered(entries) = decode::<Ordered<u8>>("{ z: 1, a: 2 }").expect("it is a mapping");
    assert_eq!(entries, [("z".to_owned(), 1), ("a".to_owned(), 2)]);
}

#[derive(Debug, serde::Deserialize)]
#[allow(dead_code, reason = "only decoded")]
struct Pair {
    a: u8,
    b: u8,
}
