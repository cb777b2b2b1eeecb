//! Who may call whom: Istio `AuthorizationPolicy`, L4 fields, compiled when loaded.
