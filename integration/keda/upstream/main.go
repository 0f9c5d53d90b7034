// Asks a podwasm-scaler through the scaler for `external-push` that KEDA itself is built of: ask ADDRESS WORKLOAD.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	v2 "k8s.io/api/autoscaling/v2"

	"github.com/kedacore/keda/v2/pkg/scalers"
	"github.com/kedacore/keda/v2/pkg/scalers/scalersconfig"
)

func main() {
	config := &scalersconfig.ScalerConfig{
		ScalableObjectName:      "scaling",
		ScalableObjectNamespace: "shop",
		MetricType:              v2.AverageValueMetricType,
		TriggerMetadata: map[string]string{
			"scalerAddress":           os.Args[1],
			"workload":                os.Args[2],
			"targetRequestsPerSecond": "10",
			"window":                  "10s",
		},
	}
	scaler, err := scalers.NewExternalPushScaler(config)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	active := make(chan bool)
	go scaler.Run(ctx, active)
	go func() {
		for pushed := range active {
			fmt.Println("pushed", pushed)
		}
	}()
	for range 8 {
		for _, spec := range scaler.GetMetricSpecForScaling(ctx) {
			name := spec.External.Metric.Name
			metrics, isActive, err := scaler.GetMetricsAndActivity(ctx, name)
			target := spec.External.Target.AverageValue
			fmt.Println(name, "target", target, "metrics", metrics, "active", isActive, "err", err)
		}
		time.Sleep(time.Second)
	}
}
