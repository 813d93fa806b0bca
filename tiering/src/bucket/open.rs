//! From a [`Config`] to a store: one place that names the clouds.
//!
//! `object_store`'s own retries are off everywhere: retried, a lost answer to a conditional create comes back
//! as "already exists", and attempts would go uncounted.

use std::path::Path as FilePath;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{ClientOptions, RetryConfig};

use super::config::{Config, OpenError, Place};
use super::price::Prices;
use super::{Bucket, Directory, Memory, Options};
use crate::seam::Seams;

pub(super) fn open(config: &Config, seams: &Seams) -> Result<Bucket, OpenError> {
    let options = Options { attempt: config.attempt, ..Options::default() };
    let priced = |options: Options, default| Options { prices: config.price.unwrap_or(default), ..options };
    match Place::parse(&config.url)? {
        Place::Memory => {
            let store = Arc::new(Memory::new(seams.clock.clone()));
            Ok(Bucket::new(store, priced(options, Prices::Free), seams))
        }
        Place::Directory(path) => {
            // A disk that is slow is not faster for being asked twice.
            let options = Options { late: None, ..options };
            directory(config, &path, priced(options, Prices::Free), seams)
        }
        Place::S3 { bucket, prefix } => {
            let (store, default) = s3(config, &bucket)?;
            let options = Options { prefix, delete_batch: 1000, ..priced(options, default) };
            Ok(Bucket::new(store, options, seams))
        }
        Place::Gcs { bucket, prefix } => {
            let (store, default) = gcs(config, &bucket)?;
            Ok(Bucket::new(store, Options { prefix, ..priced(options, default) }, seams))
        }
        Place::Azure { container, prefix } => {
            let (store, default) = azure(config, &container)?;
            let options = Options { prefix, suffix_reads: false, delete_batch: 256, ..options };
            Ok(Bucket::new(store, priced(options, default), seams))
        }
    }
}

fn directory(config: &Config, path: &FilePath, options: Options, seams: &Seams) -> Result<Bucket, OpenError> {
    if config.create_directory {
        std::fs::create_dir_all(path).map_err(|e| {
            let fix = "name another, or let the user that runs tidemark make it";
            OpenError(format!("The bucket directory {} cannot be made ({e}); {fix}.", path.display()))
        })?;
    }
    let store = Arc::new(Directory::open(path, &seams.tasks)?);
    Ok(Bucket::over(store, options, Some(path.to_owned()), seams))
}

type Store = Arc<dyn object_store::ObjectStore>;

fn s3(config: &Config, bucket: &str) -> Result<(Store, Prices), OpenError> {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_retry(no_retry())
        .with_unsigned_payload(true);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &config.region {
        builder = builder.with_region(region);
    }
    if let Some(key) = &config.access_key {
        builder = builder.with_access_key_id(key);
    }
    if let Some(secret) = &config.secret_key {
        builder = builder.with_secret_access_key(secret.expose());
    }
    if let Some(token) = &config.session_token {
        builder = builder.with_token(token.expose());
    }
    let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
    let (own, plain) = endpoint_facts(endpoint.as_deref(), "amazonaws.com");
    let express = bucket.ends_with("--x-s3");
    let builder = builder
        .with_virtual_hosted_style_request(!config.path_style.unwrap_or(own))
        .with_s3_express(express)
        .with_client_options(client(plain));
    let default = match (own, express) {
        (true, _) => Prices::Free,
        (false, true) => Prices::S3Express,
        (false, false) => Prices::S3,
    };
    Ok((Arc::new(builder.build().map_err(|e| unusable("S3", &e))?), default))
}

fn gcs(config: &Config, bucket: &str) -> Result<(Store, Prices), OpenError> {
    let (own, plain) = endpoint_facts(config.endpoint.as_deref(), "googleapis.com");
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(bucket)
        .with_retry(no_retry())
        .with_client_options(client(plain));
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_config(object_store::gcp::GoogleConfigKey::BaseUrl, endpoint);
    }
    let default = if own { Prices::Free } else { Prices::Gcs };
    Ok((Arc::new(builder.build().map_err(|e| unusable("Google Cloud Storage", &e))?), default))
}

fn azure(config: &Config, container: &str) -> Result<(Store, Prices), OpenError> {
    let mut builder = MicrosoftAzureBuilder::from_env().with_container_name(container).with_retry(no_retry());
    if let Some(account) = &config.access_key {
        builder = builder.with_account(account);
    }
    if let Some(secret) = &config.secret_key {
        builder = builder.with_access_key(secret.expose());
    }
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    let endpoint = builder.get_config_value(&AzureConfigKey::Endpoint);
    let (own, plain) = endpoint_facts(endpoint.as_deref(), "windows.net");
    let builder = builder.with_client_options(client(plain));
    let default = if own { Prices::Free } else { Prices::Azure };
    Ok((Arc::new(builder.build().map_err(|e| unusable("Azure Blob Storage", &e))?), default))
}

/// Whether the endpoint is a server of one's own, and whether it is spoken to without TLS.
fn endpoint_facts(endpoint: Option<&str>, cloud: &str) -> (bool, bool) {
    let Some(endpoint) = endpoint else { return (false, false) };
    let host = url::Url::parse(endpoint).ok().and_then(|u| u.host_str().map(str::to_owned));
    let clouds = host.is_some_and(|host| host == cloud || host.ends_with(&format!(".{cloud}")));
    (!clouds, endpoint.starts_with("http://"))
}

fn client(plain: bool) -> ClientOptions {
    // Attempts are limited above, where their sizes are known.
    ClientOptions::new().with_timeout_disabled().with_allow_http(plain)
}

fn no_retry() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

fn unusable(store: &str, error: &object_store::Error) -> OpenError {
    OpenError(format!("The settings for {store} cannot be used: {error}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3_config(endpoint: Option<&str>) -> Config {
        let mut config = Config::new("s3://bucket/prefix");
        config.endpoint = endpoint.map(str::to_owned);
        config.region = Some("eu-central-1".to_owned());
        config.access_key = Some("key".to_owned());
        config.secret_key = Some("hunter2".into());
        config
    }

    #[tokio::test]
    async fn prices_follow_the_host() {
        let seams = Seams::seeded(1);
        let price = |config: &Config| Bucket::open(config, &seams).unwrap().prices();
        assert_eq!(price(&Config::new("memory:")), Prices::Free);
        assert_eq!(price(&s3_config(Some("http://127.0.0.1:9000"))), Prices::Free);
        assert_eq!(price(&s3_config(Some("https://s3.eu-central-1.amazonaws.com"))), Prices::S3);
        assert_eq!(price(&Config { price: Some(Prices::S3), ..s3_config(Some("http://a:1")) }), Prices::S3);
    }

    #[tokio::test]
    async fn no_secret_shows_in_an_open_bucket() {
        let bucket = Bucket::open(&s3_config(Some("http://127.0.0.1:9000")), &Seams::seeded(1)).unwrap();
        assert!(!format!("{bucket:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn a_missing_directory_is_refused_with_the_fix() {
        let error = Bucket::open(&Config::new("file:///does/not/exist"), &Seams::seeded(1)).unwrap_err();
        assert!(error.to_string().contains("/does/not/exist does not exist; make it first"), "{error}");
    }
}
