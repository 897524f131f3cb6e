module github.com/anchorattention/anchor/bench/peers

go 1.26.0

require (
	github.com/anchorattention/anchor v0.0.0
	github.com/yalue/onnxruntime_go v1.27.0
)

require golang.org/x/sys v0.49.0 // indirect

replace github.com/anchorattention/anchor => ../..
