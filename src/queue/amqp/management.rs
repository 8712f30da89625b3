//! Where RabbitMQ's management API is, as plain data: who asks it is no business of the queue.

use secrecy::ExposeSecret;
use url::Url;

use super::Config;
use super::address::{self, split};

/// The addresses of `amqp.management_url`, each the list of queues of the virtual host, with the user of `amqp.url` where it
/// names none. No part of one gets into the error.
pub(super) fn addresses(config: &Config) -> Result<Option<Vec<Url>>, String> {
    let Some(text) = &config.management_url else { return Ok(None) };
    let broker = address::parse(config).map_err(|_| "needs a sound `url` beside it".to_owned())?.swap_remove(0).uri();
    let parts = split(text.expose_secret());
    let mut addresses = Vec::new();
    for (place, part) in (1..).zip(&parts) {
        let refuse = || format!("address {place} of {} is not http://[user:password@]host:port", parts.len());
        let mut url =
            Url::parse(part).ok().filter(|url| ["http", "https"].contains(&url.scheme())).ok_or_else(refuse)?;
        if url.username().is_empty() {
            let user = &broker.authority.userinfo;
            url.set_username(&user.username).map_err(|()| refuse())?;
            url.set_password(Some(&user.password)).map_err(|()| refuse())?;
        }
        url.path_segments_mut().map_err(|()| refuse())?.pop_if_empty().extend(["api", "queues", &broker.vhost]);
        addresses.push(url);
    }
    Ok(Some(addresses))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str, management: &str) -> Config {
        Config { url: url.into(), management_url: Some(management.into()), ..Config::default() }
    }

    #[test]
    fn the_api_is_asked_with_its_own_user_or_the_brokers_for_the_queues_of_the_virtual_host() {
        assert!(addresses(&Config::default()).unwrap().is_none());
        let found = addresses(&config("amqp://u:p%40@h/v", "http://a:15672,https://x:y@b/prefix/")).unwrap().unwrap();
        let found: Vec<&str> = found.iter().map(Url::as_str).collect();
        assert_eq!(found, ["http://u:p%40@a:15672/api/queues/v", "https://x:y@b/prefix/api/queues/v"]);
        let found = addresses(&config("amqp://h", "http://a:15672/")).unwrap().unwrap();
        assert_eq!(found[0].as_str(), "http://guest:guest@a:15672/api/queues/%2F");
    }

    #[test]
    fn an_unusable_address_of_the_api_is_named_by_its_place_and_not_shown() {
        for (management, place) in [("hunter2", "1 of 1"), ("http://a,ftp://u:hunter2@b", "2 of 2"), ("", "1 of 1")] {
            let error = addresses(&config("amqp://h", management)).unwrap_err();
            assert!(error.contains(place) && !error.contains("hunter2"), "{error}");
        }
    }
}
