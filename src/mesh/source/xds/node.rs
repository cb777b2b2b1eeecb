//! Who a node proxy says that it is.

use std::collections::BTreeMap;

use prost_types::{ListValue, Struct, Value, value::Kind};

use crate::rpc::discovery::Node;

/// The node of the first request of each type.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeIdentity {
    /// Four parts: `ztunnel~IP~POD.NAMESPACE~NAMESPACE.svc.cluster.local`.
    pub id: String,
    /// `NAME`, `NAMESPACE`, `INSTANCE_IPS`, `NODE_NAME`, and what else is told, such as
    /// `CLUSTER_ID`.
    pub metadata: BTreeMap<String, serde_json::Value>,
}

impl NodeIdentity {
    pub(super) fn message(&self) -> Node {
        let fields = self.metadata.iter().map(|(name, value)| (name.clone(), value_of(value)));
        let metadata = Some(Struct { fields: fields.collect() });
        Node { id: self.id.clone(), cluster: String::new(), metadata }
    }
}

fn value_of(json: &serde_json::Value) -> Value {
    let kind = match json {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(so) => Kind::BoolValue(*so),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Array(values) => {
            Kind::ListValue(ListValue { values: values.iter().map(value_of).collect() })
        }
        serde_json::Value::Object(fields) => Kind::StructValue(Struct {
            fields: fields.iter().map(|(key, value)| (key.clone(), value_of(value))).collect(),
        }),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::rpc::discovery::DeltaDiscoveryRequest;

    /// The first frame of a ztunnel, recorded in front of an istiod.
    const RECORDED: &str = "0ace010a497a74756e6e656c7e31302e3234342e312e327e7a74756e6e656c2d6e31\
        2e697374696f2d73797374656d7e697374696f2d73797374656d2e7376632e636c75737465722e6c6f63616c1a\
        80010a1a0a0a434c55535445525f4944120c1a0a4b756265726e657465730a1c0a0c494e5354414e43455f4950\
        53120c1a0a31302e3234342e312e320a140a044e414d45120c1a0a7a74756e6e656c2d6e310a1b0a094e414d45\
        5350414345120e1a0c697374696f2d73797374656d0a110a094e4f44455f4e414d4512041a026e31122a747970\
        652e676f6f676c65617069732e636f6d2f697374696f2e776f726b6c6f61642e41646472657373";

    #[test]
    fn the_first_request_is_that_of_a_ztunnel_byte_by_byte() {
        let metadata = [
            ("NAME", "ztunnel-n1"),
            ("NAMESPACE", "istio-system"),
            ("INSTANCE_IPS", "10.244.1.2"),
            ("NODE_NAME", "n1"),
            ("CLUSTER_ID", "Kubernetes"),
        ];
        let node = NodeIdentity {
            id: "ztunnel~10.244.1.2~ztunnel-n1.istio-system~istio-system.svc.cluster.local".into(),
            metadata: metadata.map(|(name, value)| (name.to_owned(), value.into())).into(),
        };
        let request = DeltaDiscoveryRequest {
            node: Some(node.message()),
            type_url: super::super::TypeUrl::Address.as_str().into(),
            ..Default::default()
        };
        let hex: String = request.encode_to_vec().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, RECORDED);
    }
}
