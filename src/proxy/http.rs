//! Pingora's proxy, in the form in which the listener gives it connections.

use std::sync::Arc;

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::server::ShutdownWatch;
use pingora_proxy::HttpProxy;

use super::shared::Gateway;
use crate::listener::{ClientStream, HttpApp};

pub struct Http(Arc<HttpProxy<Gateway>>);

impl Http {
    pub fn new(proxy: HttpProxy<Gateway>) -> Self {
        Self(Arc::new(proxy))
    }
}

#[async_trait]
impl HttpApp for Http {
    async fn serve(&self, stream: ClientStream, stopping: &ShutdownWatch) {
        self.0.process_new(Box::new(stream), stopping).await;
    }

    async fn cleanup(&self) {
        self.0.cleanup().await;
    }
}
